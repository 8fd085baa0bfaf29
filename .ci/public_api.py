#!/usr/bin/env python3
"""The crate's public API as text, from rustdoc's JSON, and the foreign crates whose types it shows.

usage: public_api.py RUSTDOC_JSON API_FILE [--write]

Fails if the text is not that of API_FILE (a change of the API must be a change of that file; --write makes it one), or if
a type of a crate that is not in ALLOWED stands in it: its major versions would become the crate's own.
"""

import difflib
import json
import sys

# Crates whose types may stand in signatures, by their own names or as they are re-exported from.
ALLOWED = {
    "std", "core", "alloc",
    "bytes", "http", "http_body", "hyper",
    "tower", "tower_layer", "tower_service",
    "futures_core",
    "serde", "serde_core", "serde_json", "uuid",
    # MCP servers: the streams of any runtime object, and the HTTP client with the application's own TLS.
    "tokio", "reqwest",
}
# Implementations of these tell a user nothing.
SILENT = {
    "Any", "Borrow", "BorrowMut", "CloneToUninit", "Freeze", "From", "Into", "RefUnwindSafe", "Send", "StructuralPartialEq",
    "Sync", "ToOwned", "ToString", "TryFrom", "TryInto", "Unpin", "UnsafeUnpin", "UnwindSafe",
}


class Api:
    def __init__(self, doc):
        self.index, self.paths, self.crates = doc["index"], doc["paths"], doc["external_crates"]
        self.lines, self.foreign = set(), {}
        self.visit(self.index[str(doc["root"])], [])

    # === types as text ===

    def path(self, path):
        known = self.paths.get(str(path["id"]))
        name = path["path"].split("::")[-1]
        if known and known["crate_id"] != 0:
            self.foreign.setdefault(self.crates[str(known["crate_id"])]["name"], "::".join(known["path"]))
            name = "::".join([known["path"][0], known["path"][-1]])
        return name + self.arguments(path.get("args"))

    def arguments(self, args):
        if not args:
            return ""
        if "parenthesized" in args:
            given = args["parenthesized"]
            text = f"({', '.join(map(self.type, given['inputs']))})"
            return text + (f" -> {self.type(given['output'])}" if given["output"] else "")
        given = args.get("angle_bracketed", {})
        texts = []
        for arg in given.get("args", []):
            kind, value = next(iter(arg.items())) if isinstance(arg, dict) else (arg, arg)
            texts.append(self.type(value) if kind == "type" else value["expr"] if kind == "const" else str(value))
        for constraint in given.get("constraints", []):
            kind, value = next(iter(constraint["binding"].items()))
            if kind == "equality":
                texts.append(f"{constraint['name']} = {self.type(value.get('type') or value)}")
            else:
                texts.append(f"{constraint['name']}: {self.bounds(value)}")
        return f"<{', '.join(texts)}>" if texts else ""

    def type(self, ty):
        kind, value = next(iter(ty.items()))
        if kind == "resolved_path":
            return self.path(value)
        if kind in ("generic", "primitive"):
            return value
        if kind == "tuple":
            return f"({', '.join(map(self.type, value))})"
        if kind == "slice":
            return f"[{self.type(value)}]"
        if kind == "array":
            return f"[{self.type(value['type'])}; {value['len']}]"
        if kind == "borrowed_ref":
            lifetime = f"{value['lifetime']} " if value["lifetime"] else ""
            return f"&{lifetime}{'mut ' if value['is_mutable'] else ''}{self.type(value['type'])}"
        if kind == "impl_trait":
            return f"impl {self.bounds(value)}"
        if kind == "dyn_trait":
            return "dyn " + " + ".join(self.path(bound["trait"]) for bound in value["traits"])
        if kind == "qualified_path":
            origin = f"<{self.type(value['self_type'])} as {self.path(value['trait'])}>" if value.get("trait") else \
                self.type(value["self_type"])
            return f"{origin}::{value['name']}"
        if kind == "function_pointer":
            return "fn" + self.signature(value["sig"])
        return kind

    def bounds(self, bounds):
        texts = []
        for bound in bounds:
            kind, value = next(iter(bound.items()))
            if kind == "trait_bound":
                prefix = "?" if value["modifier"] == "maybe" else ""
                texts.append(prefix + self.path(value["trait"]))
            else:
                texts.append(str(value))
        return " + ".join(texts)

    def signature(self, sig):
        text = f"({', '.join(f'{name}: {self.type(ty)}' for name, ty in sig['inputs'])})"
        return text + (f" -> {self.type(sig['output'])}" if sig["output"] else "")

    def generics(self, generics):
        names, clauses = [], []
        for param in generics["params"]:
            kind, value = next(iter(param["kind"].items()))
            if kind == "type" and value.get("is_synthetic"):
                continue
            bounds = self.bounds(value["bounds"]) if kind == "type" and value["bounds"] else ""
            names.append(f"{param['name']}{': ' + bounds if bounds else ''}")
        for clause in generics["where_predicates"]:
            kind, value = next(iter(clause.items()))
            if kind == "bound_predicate":
                clauses.append(f"{self.type(value['type'])}: {self.bounds(value['bounds'])}")
        names = f"<{', '.join(names)}>" if names else ""
        return names, f" where {', '.join(clauses)}" if clauses else ""

    # === items ===

    def visit(self, item, path):
        if item["visibility"] not in ("public", "default") or hidden(item):
            return
        kind, inner = next(iter(item["inner"].items()))
        if kind == "use":
            target = self.index.get(str(inner["id"]))
            if inner["is_glob"] and target:
                for child in next(iter(target["inner"].values())).get("items", []):
                    self.visit(self.index[str(child)], path)
            elif target:
                self.visit({**target, "name": inner["name"], "visibility": "public"}, path)
            else:
                self.lines.add(f"pub use {'::'.join([*path, inner['name']])} = {inner['source']}")
            return
        if not item["name"] and kind != "impl":
            return
        path = [*path, item["name"]] if item["name"] else path
        name = "::".join(path)
        if kind == "module":
            self.lines.add(f"mod {name}")
            for child in inner["items"]:
                self.visit(self.index[str(child)], path)
        elif kind in ("struct", "enum", "union", "trait"):
            generics, where = self.generics(inner["generics"])
            grows = "#[non_exhaustive] " if any("non_exhaustive" in str(attr) for attr in item["attrs"]) else ""
            supers = f": {self.bounds(inner['bounds'])}" if inner.get("bounds") else ""
            self.lines.add(f"{grows}{kind} {name}{generics}{supers}{where}")
            for child in self.children(kind, inner):
                self.visit(child, path)
            for impl in inner.get("impls", []):
                if str(impl) in self.index:
                    self.implementation(self.index[str(impl)], path)
        elif kind == "variant":
            self.lines.add(f"variant {name}")
            shape = inner["kind"]
            ids = [] if isinstance(shape, str) else next(iter(shape.values()))
            for child in ids["fields"] if isinstance(ids, dict) else filter(None, ids):
                self.visit(self.index[str(child)], path)
        elif kind == "struct_field":
            self.lines.add(f"field {name}: {self.type(inner)}")
        elif kind == "function":
            generics, where = self.generics(inner["generics"])
            head = "".join(word for word, on in (("const ", inner["header"]["is_const"]),
                                                 ("async ", inner["header"]["is_async"])) if on)
            self.lines.add(f"{head}fn {name}{generics}{self.signature(inner['sig'])}{where}")
        elif kind in ("constant", "static", "assoc_const"):
            self.lines.add(f"const {name}: {self.type(inner['type'])}")
        elif kind == "assoc_type":
            self.lines.add(f"type {name} = {self.type(inner['type'])}" if inner.get("type") else f"type {name}")
        elif kind == "type_alias":
            self.lines.add(f"type {name} = {self.type(inner['type'])}")
        else:
            self.lines.add(f"{kind} {name}")

    def children(self, kind, inner):
        if kind == "enum":
            ids = inner["variants"]
        elif kind == "trait":
            ids = inner["items"]
        else:
            shape = inner["kind"]
            shape = {} if isinstance(shape, str) else next(iter(shape.values()))
            ids = shape["fields"] if isinstance(shape, dict) and "fields" in shape else filter(None, shape or [])
        return [self.index[str(child)] for child in ids if str(child) in self.index]

    def implementation(self, item, path):
        inner = item["inner"]["impl"]
        if inner["is_synthetic"] or inner.get("blanket_impl"):
            return
        trait = inner["trait"]
        if trait is None:
            for child in inner["items"]:
                self.visit(self.index[str(child)], path)
        elif trait["path"].split("::")[-1] not in SILENT or trait["path"].split("::")[-1] in ("From", "TryFrom"):
            _, where = self.generics(inner["generics"])
            self.lines.add(f"impl {self.path(trait)} for {'::'.join(path)}{where}")
            for child in inner["items"]:
                associated = self.index[str(child)]
                if "assoc_type" in associated["inner"]:
                    self.visit({**associated, "visibility": "public"}, path)


def hidden(item):
    return any("doc(hidden)" in str(attr) for attr in item["attrs"])


def main():
    document, api_file, *options = sys.argv[1:]
    with open(document, encoding="utf-8") as file:
        api = Api(json.load(file))
    text = "".join(f"{line}\n" for line in sorted(api.lines))
    if "--write" in options:
        with open(api_file, "w", encoding="utf-8") as file:
            file.write(text)
    with open(api_file, encoding="utf-8") as file:
        written = file.read()
    failed = False
    for line in difflib.unified_diff(written.splitlines(), text.splitlines(), api_file, "the code", lineterm=""):
        print(line)
        failed = True
    for crate in sorted(set(api.foreign) - ALLOWED):
        print(f"the public API shows {api.foreign[crate]} of the crate {crate}, which is not allowed")
        failed = True
    if failed:
        sys.exit("the public API changed: see the difference above, and write it down with --write if it is meant")
    print(f"{len(api.lines)} public items, as written down; foreign crates: {', '.join(sorted(api.foreign))}")


if __name__ == "__main__":
    main()
