"""Makes kuberay-crds.json beside this from KubeRay's custom resource definitions: the test's copy of the real schema.

    python tests/data/reduce_kuberay_crds.py FOLDER VERSION

FOLDER holds ray.io_rayjobs.yaml, ray.io_rayclusters.yaml and ray.io_rayservices.yaml of
https://github.com/ray-project/kuberay at the tag VERSION (ray-operator/config/crd/bases; Apache-2.0).
"""

import hashlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

KINDS = ("rayjobs", "rayclusters", "rayservices")
SHARED_FROM = 300
"""Characters from which a schema that occurs more than once is kept once."""


def strict(schema: Any) -> Any:
    """As the API server validates with fieldValidation=Strict: a field that the schema does not name is refused.

    What JSON Schema cannot say (x-kubernetes-*, formats of Go) goes, and so do descriptions.
    """
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: {name: strict(each) for name, each in value.items()} if key == "properties" else strict(value)
        for key, value in schema.items()
        if not key.startswith("x-kubernetes-") and key not in {"description", "format", "default", "nullable"}
    }
    open_to_any = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if "properties" in schema and not open_to_any:
        kept["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        kept["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if schema.get("nullable") and "type" in kept:
        kept["type"] = [kept["type"], "null"]
    return kept


def share(schemas: dict[str, Any]) -> dict[str, Any]:
    """The same with each large schema that occurs more than once (pod templates, above all) kept under $defs."""
    seen: Counter[str] = Counter()

    def count(schema: Any) -> None:
        if isinstance(schema, dict):
            text = json.dumps(schema, sort_keys=True)
            seen[text] += 1
            if seen[text] > 1:
                return
        for each in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
            count(each)

    count(schemas)
    definitions: dict[str, Any] = {}

    def shared(schema: Any) -> Any:
        if isinstance(schema, list):
            return [shared(each) for each in schema]
        if not isinstance(schema, dict):
            return schema
        text = json.dumps(schema, sort_keys=True)
        # A list of properties is no schema: no $ref may stand in its place.
        if "type" in schema and isinstance(schema["type"], str) and seen[text] > 1 and len(text) > SHARED_FROM:
            name = hashlib.sha256(text.encode()).hexdigest()[:8]
            if name not in definitions:
                definitions[name] = {key: shared(value) for key, value in schema.items()}
            return {"$ref": f"#/$defs/{name}"}
        return {key: shared(value) for key, value in schema.items()}

    return {"kinds": shared(schemas), "$defs": dict(sorted(definitions.items()))}


def main(folder: Path, version: str) -> None:
    schemas = {}
    for kind in KINDS:
        definition = yaml.load((folder / f"ray.io_{kind}.yaml").read_text(), yaml.CSafeLoader)
        (served,) = (each for each in definition["spec"]["versions"] if each["name"] == "v1")
        schemas[definition["spec"]["names"]["kind"]] = strict(served["schema"]["openAPIV3Schema"])
    told = {
        "source": "https://github.com/ray-project/kuberay, ray-operator/config/crd/bases",
        "version": version,
        "licence": "Apache-2.0",
        "changed": "made by reduce_kuberay_crds.py: JSON, without descriptions, unknown fields refused, repeats shared",
    }
    target = Path(__file__).with_name("kuberay-crds.json")
    target.write_text(json.dumps({**told, **share(schemas)}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
