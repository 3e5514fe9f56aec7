// Tails a JSON stream with the protocol's own client until it is closed: one line for each message. What breaks the
// client's reader is met with another one at the last offset, as its documentation asks.
const [modules, url, live] = process.argv.slice(2);
const { stream } = await import(`${modules}/@durable-streams/client/dist/index.js`);

let offset = "-1";
let over = false;
// The reader of events ends with an error that nobody can catch when its connection breaks.
process.on("uncaughtException", (error) => console.error(`uncaught: ${error}`));

while (!over) {
  try {
    const reader = await stream({ url, offset, live });
    reader.subscribeJson(async (batch) => {
      for (const item of batch.items) process.stdout.write(`${JSON.stringify(item)}\n`);
      offset = batch.offset;
      over ||= batch.streamClosed;
    });
    await reader.closed;
    over ||= reader.streamClosed;
  } catch (error) {
    console.error(`again: ${error}`);
  }
  if (!over) await new Promise((resolve) => setTimeout(resolve, 50));
}
process.exit(0);
