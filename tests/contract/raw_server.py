"""A tool server on standard streams, written by hand so that it can lie and die; a test starts it as a child.

    raw_server.py WITNESS

Each execution is first written to the witness file, with what came with it. The tools:

    echo       answers with its arguments      environment   the names and values of every variable it sees
    dies       exits in the middle of a call   lies          answers against its own output schema
    garbles    answers with what is no JSON    twice         answers the same request twice
"""

import json
import os
import sys
from pathlib import Path

SCHEMA = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}
TOOLS = ("echo", "environment", "dies", "lies", "garbles", "twice")


def main() -> None:
    witness = Path(sys.argv[1])
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" not in asked:
            continue
        match asked["method"]:
            case "initialize":
                told = {
                    "protocolVersion": asked["params"]["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "raw", "version": "1"},
                }
                _say(asked, result=told)
            case "tools/list":
                _say(asked, result={"tools": [_listed(name) for name in TOOLS]})
            case "tools/call":
                with witness.open("a") as file:
                    file.write(json.dumps(asked["params"]) + "\n")
                _answer(asked, asked["params"])
            case _:
                _say(asked, error={"code": -32601, "message": "There is no such method."})


def _answer(asked: dict, call: dict) -> None:
    match call["name"]:
        case "echo":
            _say(asked, result=_result(call.get("arguments") or {}))
        case "environment":
            _say(asked, result=_result(dict(os.environ)))
        case "dies":
            os._exit(9)
        case "lies":
            _say(asked, result=_result({"number": "seven"}))
        case "garbles":
            sys.stdout.write("{{{ this is not JSON\n")
            sys.stdout.flush()
        case "twice":
            _say(asked, result=_result({"number": 1}))
            _say(asked, result=_result({"number": 2}))


def _listed(name: str) -> dict:
    listed = {"name": name, "description": name, "inputSchema": {"type": "object"}}
    return {**listed, "outputSchema": SCHEMA} if name == "lies" else listed


def _result(content: dict) -> dict:
    return {"content": [{"type": "text", "text": json.dumps(content)}], "structuredContent": content}


def _say(asked: dict, **rest: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **rest}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
