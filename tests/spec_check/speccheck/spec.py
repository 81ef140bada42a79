"""The specification's files as one registry of schemas, and a table of its operations."""
import pathlib
import re
import urllib.parse

import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

DATA = pathlib.Path(__file__).resolve().parents[1] / "openapi"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
BASE = "http://spec/"
METHODS = ("get", "put", "post", "delete")
# Where the specification's repository has what here lies one folder higher.
FOLDERS = {"api/client-server/": "client-server/", "api/server-server/": "server-server/", "event-schemas/": "event-schemas/"}


def pointer(*parts):
    """A JSON pointer as the fragment of a URI."""
    return "#/" + "/".join(urllib.parse.quote(str(p).replace("~", "~0").replace("/", "~1"), safe="~") for p in parts)


class Operation:
    """A method and path of the specification."""

    def __init__(self, spec, file, method, raw_path, base_path, body):
        self.spec, self.file, self.method, self.raw_path, self.body = spec, file, method.upper(), raw_path, body
        self.path = base_path + raw_path.strip()
        self.uri = f"{BASE}api/client-server/{file}"
        self.name = f"{self.method} {self.path}"
        self.statuses = {str(status) for status in body["responses"]}
        self.deprecated = bool(body.get("deprecated"))
        pattern = re.sub(r"\\\{[^}]+\\\}", "([^/]*)", re.escape(self.path.rstrip("/")))
        self.regex = re.compile(pattern + "/?$")
        self.weight = len(re.sub(r"\{[^}]+\}", "", self.path))

    def place(self, *parts):
        """The URI of something inside this operation's definition."""
        return self.uri + pointer("paths", self.raw_path, self.method.lower(), *parts)

    def media(self, status):
        """The content types that the specification gives for a status."""
        answer = self.body["responses"].get(str(status)) or {}
        return list((answer.get("content") or {}))

    def request_schema(self):
        """The URI of the schema of a JSON body, or None."""
        content = (self.body.get("requestBody") or {}).get("content") or {}
        return self.place("requestBody", "content", "application/json", "schema") if "application/json" in content else None

    def parameters(self, kind):
        """The parameters in `query` or `path`, as the specification has them."""
        return [p for p in self.body.get("parameters") or [] if p.get("in") == kind]


class Spec:
    """All definitions."""

    def __init__(self, data=DATA):
        if not (data / "client-server").is_dir():
            raise SystemExit(f"no OpenAPI definitions at {data}")
        self.data, self.missing = data, set()
        # All at once: what a Registry retrieves while it resolves is forgotten, and would be parsed each time.
        resources = []
        for prefix, folder in FOLDERS.items():
            for file in sorted((data / folder).rglob("*.yaml")):
                uri = BASE + prefix + urllib.parse.quote(str(file.relative_to(data / folder)), safe="/")
                resources.append((uri, Resource(contents=self._load(file), specification=DRAFT202012)))
        self.registry = Registry(retrieve=self._unknown).with_resources(resources)
        self.operations = []
        for file in sorted((data / "client-server").glob("*.yaml")):
            content = self._load(file)
            base = content["servers"][0]["variables"].get("basePath", {}).get("default", "") if content.get("servers") else ""
            for path, methods in (content.get("paths") or {}).items():
                for method, body in methods.items():
                    if method in METHODS:
                        self.operations.append(Operation(self, file.name, method, path, base, body))
        self.operations.sort(key=lambda operation: -operation.weight)

    def _load(self, file):
        with open(file, encoding="utf-8") as handle:
            return yaml.load(handle, LOADER)

    def _unknown(self, uri):
        # Not among the files that lie here (application service and identity definitions): anything goes.
        self.missing.add(uri.removeprefix(BASE))
        return Resource(contents={}, specification=DRAFT202012)

    def find(self, method, path):
        """All operations behind a path (the specification defines `invite` twice)."""
        path = re.sub(r"^/_matrix/client/r0/", "/_matrix/client/v3/", path.split("?")[0])
        found = [o for o in self.operations if o.method == method and o.regex.match(path)]
        if not found and re.search(r"/rooms/[^/]+/state/[^/]+$", path):
            return self.find(method, path + "/")
        best = max((o.weight for o in found), default=0)
        return [o for o in found if o.weight == best]

    def contents(self, uri):
        """What is at a URI, and the resolver for what it refers to."""
        found = self.registry.resolver().lookup(uri)
        return found.contents, found.resolver

    def properties(self, uri):
        """(name → schema, required names) of an object's schema, through `allOf` and `$ref`."""
        schema, resolver = self.contents(uri)
        return self._properties(schema, resolver)

    def _properties(self, schema, resolver):
        named, required = {}, set()
        if not isinstance(schema, dict):
            return named, required
        if "$ref" in schema:
            found = resolver.lookup(schema["$ref"])
            named, required = self._properties(found.contents, found.resolver)
        for part in schema.get("allOf", []):
            more, needed = self._properties(part, resolver)
            named |= more
            required |= needed
        for name, part in (schema.get("properties") or {}).items():
            named[name] = self._flat(part, resolver)
        if isinstance(schema.get("required"), list):
            required |= set(schema["required"])
        return named, required

    def _flat(self, schema, resolver):
        """A property's schema with its own `properties`, `required`, `type`, `enum` pulled together."""
        flat = dict(schema) if isinstance(schema, dict) else {}
        parts = list(flat.get("allOf", [])) + ([{"$ref": flat["$ref"]}] if "$ref" in flat else [])
        for part in parts:
            at = resolver
            while isinstance(part, dict) and "$ref" in part:
                found = at.lookup(part["$ref"])
                part, at = found.contents, found.resolver
            for key in ("type", "enum", "items"):
                if isinstance(part, dict) and key in part:
                    flat.setdefault(key, part[key])
        named, required = self._properties(schema, resolver)
        if named:
            flat["type"], flat["properties"], flat["required"] = flat.get("type", "object"), named, sorted(required)
        return flat

    def event_file(self, kind, content):
        """The file that defines an event, or None."""
        names = [f"{kind}.yaml"]
        if kind == "m.room.message":
            names.insert(0, f"m.room.message${content.get('msgtype')}.yaml")
        if kind == "m.key.verification.start":
            names.insert(0, f"{kind}${content.get('method')}.yaml")
        for name in names:
            if "/" not in name and "\0" not in name and len(name) < 200 and (self.data / "event-schemas" / "schema" / name).is_file():
                return name
        return None
