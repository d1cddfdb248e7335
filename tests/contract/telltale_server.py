"""A tool server that tells the secrets it was given, in every way it can; a test starts it as a child.

    telltale_server.py WITNESS

Each start is written to the witness file: the process, and a digest of each of its secrets. The tools:

    tell     answers with its secrets: as text, in a key, in a list, encoded, as a number where it is one
    fail     answers with an error that quotes them      protest   refuses by an error of the protocol that does
    lie      answers against its own output schema       print     prints them on its standard error
    wait     tells them once a file of that name exists  write     tells them in text that is no JSON
"""

import base64
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from urllib.parse import quote

TOOLS = ("tell", "fail", "protest", "lie", "print", "wait", "write")
SCHEMA = {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]}


def secrets() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("SECRET_")}


def main() -> None:
    digests = {name: hashlib.sha256(value.encode()).hexdigest() for name, value in secrets().items()}
    with Path(sys.argv[1]).open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), **digests}) + "\n")
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" not in asked:
            continue
        match asked["method"]:
            case "initialize":
                told = {
                    "protocolVersion": asked["params"]["protocolVersion"],
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "telltale", "version": "1"},
                }
                say(asked, result=told)
            case "tools/list":
                say(asked, result={"tools": [listed(name) for name in TOOLS]})
            case "tools/call":
                call(asked, asked["params"]["name"], asked["params"].get("arguments") or {})
            case _:
                say(asked, error={"code": -32601, "message": "There is no such method."})


def call(asked: dict, name: str, arguments: dict) -> None:
    all_of_them = " ".join(secrets().values())
    match name:
        case "tell":
            say(asked, result=result(told()))
        case "fail":
            text = [{"type": "text", "text": f"The service refused the key {all_of_them}."}]
            say(asked, result={"content": text, "isError": True})
        case "protest":
            say(asked, error={"code": -32602, "message": f"no entry with {all_of_them}", "data": all_of_them})
        case "lie":
            say(asked, result=result({"number": all_of_them}))
        case "print":
            print(f"using {all_of_them}", file=sys.stderr, flush=True)
            print("x" * 70_000 + all_of_them + "x" * 70_000, file=sys.stderr, flush=True)
            print("printed all", file=sys.stderr, flush=True)
            say(asked, result=result({"printed": True}))
        case "wait":
            while not Path(arguments["file"]).exists():
                time.sleep(0.01)
            say(asked, result=result({"pid": os.getpid(), **told()}))
        case "write":
            say(asked, result={"content": [{"type": "text", "text": f"It is {all_of_them}!"}]})


def told() -> dict:
    answer = {}
    for name, value in secrets().items():
        data = value.encode()
        answer[name] = {
            "plain": f"<{value}>",
            value: "in a key",
            "list": [{"deep": [value]}],
            "base64": [base64.b64encode(b"u" * n + b":" + data + b"!").decode() for n in range(4)],
            "url": "https://api.example/?key=" + quote(value, safe=""),
            "hex": data.hex(),
            "json": json.dumps({"key": value}),
            "number": int(value) if value.isdigit() else 7,
            "harmless": "kept as it is",
        }
    return answer


def listed(name: str) -> dict:
    plain = {"name": name, "description": name, "inputSchema": {"type": "object"}}
    return {**plain, "outputSchema": SCHEMA} if name == "lie" else plain


def result(content: dict) -> dict:
    return {"content": [{"type": "text", "text": json.dumps(content)}], "structuredContent": content}


def say(asked: dict, **rest: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **rest}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
