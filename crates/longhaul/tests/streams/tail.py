"""Tails a run's log with the protocol's own client for Python until the run is over: one line for each event.

The client knows no closed streams and breaks off where its connection does, so whoever uses it goes on at the last offset and
stops at the event that ends a run."""

import json
import sys
import time

import httpx
from durable_streams import DurableStreamError, stream

url, live = sys.argv[1:]
ENDS = {"run.completed", "run.failed", "run.cancelled"}

offset = "-1"
over = False
while not over:
    try:
        with stream(url, offset=offset, live=live) as reader:
            for batch in reader.iter_events(mode="json"):
                for item in batch.data:
                    print(json.dumps(item), flush=True)
                    over = over or item["type"] in ENDS
                offset = batch.next_offset
                if over:
                    break
    except (DurableStreamError, httpx.HTTPError) as error:
        print(f"again: {error!r}", file=sys.stderr)
    if not over:
        time.sleep(0.05)
