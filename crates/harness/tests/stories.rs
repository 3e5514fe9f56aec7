//! Every recorded run makes exactly the events that were read and found right: `tests/stories/<run>.txt`.

mod replay;

use std::path::Path;

#[test]
fn each_recorded_run_tells_its_story() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories");
    for recorded in replay::all() {
        let story = replay::story(&recorded.events());
        let expected = std::fs::read_to_string(folder.join(format!("{}.txt", recorded.name))).unwrap();
        assert_eq!(story, expected, "{} tells another story", recorded.name);
    }
}

#[test]
fn no_line_of_stdout_is_unknown() {
    for recorded in replay::all() {
        let story = replay::story(&recorded.events());
        let kept = story.lines().filter(|l| l.starts_with("keeps stdout: ")).collect::<Vec<_>>();
        assert!(kept.is_empty(), "{}: {kept:#?}", recorded.name);
    }
}
