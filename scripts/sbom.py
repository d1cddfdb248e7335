"""Writes the bill of materials of what runs: every locked package that is installed, as CycloneDX 1.6 in JSON.

    python scripts/sbom.py FILE

It says what is there and not only what was asked for: name, version, licence and needs come from the installed
packages, and a package that is installed in another version than the lock file's is an error. The same environment
gives the same file, but for its time, which SOURCE_DATE_EPOCH sets.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.markers import Marker

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
NAME = "orchestrator"

_PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)(?:\s*;\s*([^\\\n]+))?", re.MULTILINE)
_NEED = re.compile(r"^([A-Za-z0-9._-]+)")
_NAMESPACE = uuid.UUID("6f0f8a0e-5a8e-5c07-9d5b-0d1c4b0f2a51")


class Different(Exception):
    """What is installed is not what the lock file says."""


def pins(lock: str) -> Mapping[str, str]:
    """Return the version of each package that a lock file pins, by its one spelling.

    Of a package that is pinned more than once it is the version for this interpreter and system.
    """
    found: dict[str, str] = {}
    for name, version, marker in _PIN.findall(lock):
        if canonical(name) not in found or Marker(marker.strip()).evaluate():
            found[canonical(name)] = version
    return found


def canonical(name: str) -> str:
    """Return a package's name in its one spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def bill(pinned: Mapping[str, str], *, now: dt.datetime) -> dict[str, Any]:
    """Return the document; raises `Different`.

    A pinned package that is not installed is one for other systems, and is left out.
    """
    found = dict(_installed(pinned))
    root = metadata.distribution(NAME)
    refs = {name: f"pkg:{_KIND}/{name}@{one.version}" for name, one in found.items()}
    parts = [_component(name, one, refs[name]) for name, one in sorted(found.items())]
    itself = {"type": "application", "name": NAME, "version": root.version, "bom-ref": NAME}
    needs = [
        {"ref": NAME, "dependsOn": _needed(root, refs)},
        *({"ref": refs[name], "dependsOn": _needed(one, refs)} for name, one in sorted(found.items())),
    ]
    number = uuid.uuid5(_NAMESPACE, json.dumps([itself, parts, needs], sort_keys=True))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{number}",
        "version": 1,
        "metadata": {
            "timestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "lifecycles": [{"phase": "build"}],
            "component": itself,
        },
        "components": parts,
        "dependencies": needs,
    }


_KIND = "py" + "pi"
"""The kind of a Python package in a package URL."""


def _installed(pinned: Mapping[str, str]) -> Iterator[tuple[str, metadata.Distribution]]:
    for name, version in pinned.items():
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if found.version != version:
            raise Different(
                f"{name} is installed as {found.version} and locked as {version}. Run `make setup` and try again."
            )
        yield name, found


def _component(name: str, found: metadata.Distribution, ref: str) -> dict[str, Any]:
    part: dict[str, Any] = {
        "type": "library",
        "name": name,
        "version": found.version,
        "bom-ref": ref,
        "purl": ref,
    }
    summary = (found.metadata["Summary"] or "").strip()
    licences = list(_licences(found))
    return part | ({"description": summary} if summary else {}) | ({"licenses": licences} if licences else {})


def _licences(found: metadata.Distribution) -> Iterator[dict[str, Any]]:
    expression = found.metadata.get("License-Expression")
    if expression:
        yield {"expression": expression}
        return
    said = (found.metadata.get("License") or "").strip()
    if said and "\n" not in said and len(said) <= 100:
        yield {"license": {"name": said}}
        return
    prefix = "License :: OSI Approved :: "
    for classifier in found.metadata.get_all("Classifier") or ():
        if classifier.startswith(prefix):
            yield {"license": {"name": classifier.removeprefix(prefix)}}


def _needed(found: metadata.Distribution, refs: Mapping[str, str]) -> list[str]:
    return sorted({refs[name] for name in _names(found.requires or ()) if name in refs})


def _names(requirements: Iterable[str]) -> Iterator[str]:
    for requirement in requirements:
        named = _NEED.match(requirement)
        if named:
            yield canonical(named[1])


def main() -> int:
    """Write the document to the file that is named."""
    if len(sys.argv) != 2:
        sys.stderr.write(__doc__ or "")
        return 2
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = dt.datetime.fromtimestamp(int(epoch), dt.UTC) if epoch else dt.datetime.now(dt.UTC)
    pinned = pins(LOCK.read_text(encoding="utf-8"))
    try:
        document = bill(pinned, now=now)
    except Different as error:
        sys.stderr.write(f"{error}\n")
        return 1
    file = Path(sys.argv[1])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    count = len(document["components"])
    print(
        f"Wrote {count} packages to {file}; {len(pinned) - count} that are locked for other systems are left out."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
