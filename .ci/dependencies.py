#!/usr/bin/env python3
"""Compares the tables of DEPENDENCIES.md with what is compiled: exit status 1 and a diff if they differ.

    .ci/dependencies.py                      compares
    .ci/dependencies.py --write              writes the tables; the audits of a crate with a new version become `?`
    .ci/dependencies.py --write AUDITS...    also looks up the audits, in audits.toml files named ORGANISATION.toml

All columns are generated except the third, what a crate does for us, which is kept from the file by the crate's name. The last one, who
audited the crate, is kept by name and version unless audit sets are given. A `?` fails the comparison.

What is counted: `cargo check` compiles the library, and the dep-info files of the compiler name the files that it read. Only those count, so
modules for other systems or for disabled features do not; build scripts and procedural macros do. Comments, the content of string and
character literals, and modules under `#[cfg(test)]` are removed. Then every line that is not blank counts. `unsafe` counts wherever it is a
word, except in the names of lints: blocks (`unsafe {`), functions and their types (`unsafe fn`, `unsafe extern "C" fn`), implementations and
traits (`unsafe impl`, `unsafe trait`); the sum also has the other uses (`unsafe extern {`, `#[unsafe(...)]`, fragments in macros). The body of
a macro counts once, however often it is used. Items that `#[cfg]` removes from a file that is read still count, so the figures are upper
bounds. C and assembly do not count.

The tables describe x86-64 Linux; on other systems the exit status is 77: skipped.
"""

import difflib
import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILE = ROOT / "DEPENDENCIES.md"
TARGET = "x86_64-unknown-linux-gnu"
LAYERS = {"core": [], "client": ["--features", "client"], "backend": ["--features", "backend"]}
OURS = "**direct**"
TABLES = {"core": ["core"], "features": ["client", "backend"]}
HEAD = (
    "| crate | through | what it does for us | lines | `unsafe` (blocks, fns, impls) | runs in the build | licence | audited publicly |\n"
    "|---|---|---|---:|---|---|---|---|\n"
)
# The order matters: a comment can contain quotes, and a string can contain what looks like a comment.
LITERAL = re.compile(
    r"""//[^\n]*|(?P<comment>/\*)|\b(?:b|c)?r(?P<hashes>\#*)".*?"(?P=hashes)|(?:\b[bc])?"(?:\\.|[^"\\])*"|(?:\bb)?'(?:\\(?:x..|u\{[^}]*\}|.)|[^\\'\n])'""",
    re.DOTALL,
)
UNSAFE = re.compile(r"""(?<![\w])unsafe(?![\w])\s*(?P<what>\{|(?:extern\s*(?:""\s*)?)?fn\b|impl\b|trait\b|)""")
TEST_MODULE = re.compile(r"#\[cfg\(test\)\]\s*(?:pub(?:\([a-z]+\))?\s+)?mod\s+\w+\s*\{")


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def without_literals(text):
    """The source without comments and with empty literals. A literal takes one line."""
    out, at = [], 0
    while found := LITERAL.search(text, at):
        out.append(text[at : found.start()])
        at = found.end()
        if found["comment"]:
            depth = 1  # Comments nest.
            while depth and (mark := re.compile(r"/\*|\*/").search(text, at)):
                depth += 1 if mark[0] == "/*" else -1
                at = mark.end()
            # Code before and after a comment of several lines stays on different lines.
            out.append("\n" if "\n" in text[found.start() : at] else " ")
        elif not found[0].startswith("//"):
            out.append('""')
    return "".join(out) + text[at:]


def without_tests(text):
    while found := TEST_MODULE.search(text):
        depth, at = 1, found.end()
        while depth and at < len(text):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        text = text[: found.start()] + text[at:]
    return text


def count(files):
    """Counts lines and uses of `unsafe` in these files: (lines, all, blocks, functions, implementations)."""
    lines = total = blocks = functions = implementations = 0
    for file in files:
        text = without_tests(without_literals(file.read_text(encoding="utf-8")))
        lines += sum(1 for line in text.splitlines() if line.strip())
        for use in UNSAFE.finditer(text):
            total += 1
            blocks += use["what"] == "{"
            functions += use["what"].endswith("fn")
            implementations += use["what"] in ("impl", "trait")
    return lines, total, blocks, functions, implementations


def dep_info(artifact):
    """The files that the compiler read for an artifact."""
    made = pathlib.Path(artifact)
    identity = made.stem.removeprefix("lib").rpartition("-")[2]
    # For a build script the hash is in the name of the folder.
    infos = list(made.parent.glob(f"*-{identity}.d")) or list(made.parent.glob("*.d"))
    assert infos, f"no dep-info next to {artifact}"
    for info in infos:
        for line in info.read_text().splitlines():
            # Each source has a rule of its own, `path:`, with escaped spaces.
            if line.endswith(":") and not line.startswith("#"):
                yield pathlib.Path(line[:-1].replace("\\ ", " "))


def compiled(features):
    """What `cargo check` compiles: {(name, version): {"files", "build": what runs in the build}}."""
    crates = {}
    for line in cargo("check", "--locked", "--lib", "--quiet", "--message-format", "json", *features).splitlines():
        message = json.loads(line)
        if message["reason"] != "compiler-artifact":
            continue
        folder = pathlib.Path(message["manifest_path"]).parent
        if folder == ROOT:
            continue
        package = tomllib.loads((folder / "Cargo.toml").read_text())["package"]
        crate = crates.setdefault((package["name"], package["version"]), {"files": set(), "build": set()})
        for kind in message["target"]["kind"]:
            crate["build"] |= {"custom-build": {"build script"}, "proc-macro": {"macro"}}.get(kind, set())
        for artifact in message["filenames"]:
            files = (folder / file for file in dep_info(artifact))
            crate["files"] |= {file for file in files if file.suffix == ".rs" and file.is_relative_to(folder)}
    return crates


def tree(features):
    """{(name, version): {"licence", "through": the last direct dependencies on the way to the crate}}."""
    lines = cargo("tree", "--locked", "-e", "normal,build", "--no-dedupe", "--prefix", "depth", "-f", " {p}|{l}", *features)
    found = re.findall(r"^(\d+) (\S+) v([^\s|]+)[^|]*\|(.*)$", lines, re.MULTILINE)
    direct = {name for depth, name, _, _ in found if depth == "1"}
    crates, way = {}, []
    for depth, name, version, licence in found:
        way[int(depth) :] = [name]
        if depth != "0":
            crate = crates.setdefault((name, version), {"licence": licence.replace("/", " OR "), "through": set()})
            crate["through"].add(next((f"`{other}`" for other in reversed(way[1:-1]) if other in direct), OURS))
    for crate in crates.values():
        # A direct dependency of ours is shown as such only.
        crate["through"] = {OURS} if OURS in crate["through"] else crate["through"]
    return crates


def version_key(version):
    parts = re.split(r"[.+-]", version)
    return [int(part) if part.isdigit() else -1 for part in parts]


def audits_of(name, version, sets):
    """Describes who audited this version, or else the nearest older audited one, as `safe-to-deploy`."""
    seen = {}
    for organisation, audits in sets.items():
        for audit in audits.get("audits", {}).get(name, []):
            criteria = audit["criteria"] if isinstance(audit["criteria"], list) else [audit["criteria"]]
            step = audit.get("version") or audit.get("delta")
            if "safe-to-deploy" not in criteria or not step or "@git" in step:
                continue
            to = step.split("->")[-1].strip()
            if version_key(to) <= version_key(version):
                seen.setdefault(to, {}).setdefault(organisation, step.replace(" -> ", " → "))
    if not seen:
        return "none"
    nearest = max(seen, key=version_key)
    who = []
    for organisation, step in sorted(seen[nearest].items()):
        who.append(organisation + (f" (changes {step})" if "→" in step else ""))
    return ("**this version**: " if nearest == version else f"{nearest}: ") + ", ".join(who)


def kept(text):
    """The parts of the file that are not generated: what each crate does, and its audits by version."""
    does, audits = {}, {}
    for row in re.findall(r"^\| `([^`]+)` (\S+) \|(.*)\|$", text, re.MULTILINE):
        cells = [cell.strip() for cell in row[2].split("|")]
        does[row[0], row[1]] = does[row[0], None] = cells[1]
        audits[row[0], row[1]] = cells[-1]
    return does, audits


def rows(layers, old, sets):
    does, audits = kept(old)
    seen = set() if layers == ["core"] else set(tree(LAYERS["core"]))
    figures = []
    for layer in layers:
        crates, sources = tree(LAYERS[layer]), compiled(LAYERS[layer])
        assert crates.keys() == sources.keys(), f"compiled or in the tree, but not both: {crates.keys() ^ sources.keys()}"
        for name, version in sorted(crates.keys() - seen):
            crate, source = crates[name, version], sources[name, version]
            figures.append(count(sorted(source["files"])))
            through = ", ".join(sorted(crate["through"], key=lambda other: other.strip("`")))
            does_it = does.get((name, version)) or does.get((name, None), "?")
            audit = audits_of(name, version, sets) if sets else audits.get((name, version), "?")
            build = ", ".join(sorted(source["build"])) or "–"
            yield row(f"`{name}` {version}", through, does_it, *shown(figures[-1]), build, crate["licence"], audit)
        seen |= crates.keys()
    yield row(f"**{len(figures)} crates**", "", "", *shown([sum(column) for column in zip(*figures)]), "", "", "")


def row(*cells):
    return "| " + " | ".join(cells) + " |\n"


def shown(figures):
    lines, total, *kinds = (f"{figure:,}".replace(",", " ") for figure in figures)
    return lines, f"{total} ({', '.join(kinds)})" if total != "0" else "0"


def main(arguments):
    if f"host: {TARGET}" not in subprocess.run(["rustc", "-vV"], check=True, stdout=subprocess.PIPE, text=True).stdout:
        print(f"skipped: the tables describe {TARGET}")
        return 77
    write = arguments[:1] == ["--write"]
    sets = {pathlib.Path(path).stem: tomllib.loads(pathlib.Path(path).read_text()) for path in arguments[1:]}
    old = FILE.read_text()
    new = old
    for table, layers in TABLES.items():
        marks = f"<!-- {table} -->\n", f"<!-- /{table} -->\n"
        before, rest = new.split(marks[0])
        after = rest.split(marks[1])[1]
        new = before + marks[0] + HEAD + "".join(rows(layers, old, sets)) + marks[1] + after
    if write:
        FILE.write_text(new)
        return 0
    sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), new.splitlines(True), "DEPENDENCIES.md", "what is compiled"))
    unknown = re.findall(r"^\| (`[^`]+` \S+) \|.*\| \? \|", new, re.MULTILINE)
    if unknown:
        print("not described yet:", ", ".join(unknown))
    if old != new or unknown:
        print("run .ci/dependencies.py --write to update the tables")
        return 1
    crates = re.findall(r"^\| `[^`]+` \d", new, re.MULTILINE)
    print(f"DEPENDENCIES.md: {len(crates)} crates, as compiled")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
