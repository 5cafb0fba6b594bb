"""A client with Python's `websockets`, for a server with handlers for `echo` and `tell`.

Usage: python_client.py PORT. Prints "ok", or fails.
"""

import asyncio
import json
import sys

import websockets


async def main(port):
    url = f"ws://localhost:{port}/any/path"
    async with websockets.connect(url, max_size=None) as a, websockets.connect(url, max_size=None) as b:
        for client in (a, b):
            hello = json.loads(await client.recv())
            assert (hello["type"], hello["channel"]) == ("event", "server:connected"), hello
            assert list(hello) == ["type", "channel", "payload", "timestamp"], hello

        async def call(channel, payload, identity="1", binary=False):
            request = json.dumps({"type": "request", "id": identity, "channel": channel, "payload": payload})
            await a.send(request.encode() if binary else request)
            return json.loads(await a.recv())

        for payload in ("hello", None, [1, {"é": "😀"}], "x" * 5_000_000):
            for binary in (False, True):
                response = await call("echo", payload, binary=binary)
                assert list(response) == ["type", "id", "channel", "payload", "timestamp"], response
                assert response["payload"] == payload

        assert (await call("no:such", 1))["error"]["code"] == "UNKNOWN_CHANNEL"
        await a.send("{")
        refused = json.loads(await a.recv())
        assert refused["id"] == "invalid_message" and refused["error"]["code"] == "INVALID_MESSAGE", refused

        # In fragments, with a ping between them.
        async def fragments():
            yield '{"type":"request","id":"2","chan'
            await (await a.ping())
            yield 'nel":"echo","payload":"é'
            yield '"}'

        await a.send(fragments())
        assert json.loads(await a.recv())["payload"] == "é"

        for n in range(2000):
            await a.send(json.dumps({"type": "request", "id": str(n), "channel": "echo", "payload": n}))
        for n in range(2000):
            response = json.loads(await a.recv())
            assert (response["id"], response["payload"]) == (str(n), n)

        await call("tell", {"x": 1})
        told = json.loads(await b.recv())
        assert (told["channel"], told["payload"]) == ("told", {"x": 1}), told
        await a.close(1000, "bye")
        assert a.close_code == 1000

    client = await websockets.connect(url)
    await client.recv()
    try:
        await client.send("x" * (17 << 20))
        await client.recv()
        raise AssertionError("a message over the limit must close the connection")
    except websockets.ConnectionClosed as closed:
        assert closed.rcvd.code == 1009, closed


asyncio.run(asyncio.wait_for(main(int(sys.argv[1])), 120))
print("ok")
