// The published suite of the Durable Streams protocol, all of it, against the server that CONFORMANCE_TEST_URL names.
import { runConformanceTests } from "@durable-streams/server-conformance-tests";

runConformanceTests({ baseUrl: process.env.CONFORMANCE_TEST_URL, subscriptions: true, longPollTimeoutMs: 2000 });
