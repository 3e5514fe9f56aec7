//! tmp
mod replay;
#[test]
fn show() {
    for r in replay::all() {
        println!("=== {}\n{}", r.name, replay::story(&replay::events(r.harness, &r.stdout)));
    }
}
