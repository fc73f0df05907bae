"""Feed recorded bodies, broken in any way, to all that reads what others have sent.

Guided by coverage where atheris is installed, else by chance. Ends with the first input that makes
something raise what its docstring does not allow, or break what it promises.
"""

import argparse
import json
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy.http import Headers

try:
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError:
    atheris = None

with atheris.instrument_imports(["prompt_cache_key"]) if atheris else nullcontext():
    from prompt_cache_key import body, session
    from prompt_cache_key.judge.prefix import compare
    from prompt_cache_key.request.bridge import Bridge
    from prompt_cache_key.request.stream import MEMBER_SIZE, RequestKey
    from prompt_cache_key.response.usage import Usage, UsageReader

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
KEY = "00000000-0000-4000-8000-000000000000"
MEMBER = body.member(KEY)

RESPONSES = [
    b'data: {"message":{"usage":{"input_tokens":9,"cache_read_input_tokens":20}}}\n\ndata: {}\n\n',
    b'data: {"choices":[{"usage":{"cached_tokens":5}}],"usage":{"prompt_tokens":9}}\r\n\r\n',
    b'{"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":1}}}',
]
REQUESTS = [b"{}", b'{"model":"m","x":[{"model":"y"}],"user":"_session_a"}']
for path in sorted(DATA.glob("*.jsonl")):
    with path.open("rb") as records:
        REQUESTS += [json.loads(record)["body"].encode() for record in records]

PIECES = [
    b"",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b" ",
    b"\r",
    b"\n\n",
    b"\0",
    b"9",
    b"-",
]
PIECES += [
    b"\xef\xbb\xbf",
    b"\xe2\x9c\x93",
    b"\xe2",
    b"\xff",
    b"\\ud83d",
    b"null",
    b"NaN",
    b"9" * 5000,
]
PIECES += [
    b"[" * 20_000,
    b'{"":' * 20_000,
    b"[" * 5000 + b"]" * 5000,
    b'"_session_%b"' % (b"a" * 250),
]
PIECES += [b'"prompt_cache_key":', b'"model":"m",', b'"user":', b'"usage":{', b'"cached_tokens":9,']


def main() -> None:
    """Run for so long."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("seconds", nargs="?", type=int, default=30)
    parser.add_argument("--without-atheris", action="store_true")
    arguments = parser.parse_args()
    if atheris and not arguments.without_atheris:
        flags = [f"-max_total_time={arguments.seconds}", "-timeout=20", "-max_len=64"]
        flags += ["-exact_artifact_path=/dev/null", "-verbosity=0", "-print_final_stats=1"]
        atheris.Setup([sys.argv[0], *flags], check)
        atheris.Fuzz()  # ends the process
    check_any = settings(max_examples=500, deadline=None, database=None)(given(st.binary())(check))
    until = time.monotonic() + arguments.seconds
    while time.monotonic() < until:
        check_any()
    print("hypothesis found nothing")


def check(plan: bytes) -> None:
    """Make every check of the body that the plan leads to, cut in two places."""
    raw, cuts = broken(plan)
    for each in (check_body, check_session, check_usage, check_bridge, check_stream, check_prefix):
        try:
            each(raw, cuts)
        except Exception as e:
            raise AssertionError(f"{each.__name__}({raw!r}, {cuts})") from e


def broken(plan: bytes) -> tuple[bytes, list[int]]:
    """Return a body and two places in it.

    The plan is read as numbers: which body, where to cut it, and for each change its place, how
    many bytes are left out there, and what is put in.
    """
    numbers = [int.from_bytes(plan[at : at + 2]) for at in range(0, len(plan), 2)]
    which, *cuts = [*numbers, 0, 0, 0][:3]
    bodies = RESPONSES if which % 4 == 0 else REQUESTS
    raw = bytearray(bodies[which // 4 % len(bodies)])
    for place, left_out, piece in zip(*[iter(numbers[3:])] * 3, strict=False):
        start = place % (len(raw) + 1)
        stop = start + (0, 0, 1, 2, 3, 20, len(raw))[left_out % 7]
        raw[start:stop] = PIECES[piece % len(PIECES)]
    return bytes(raw), sorted(cut % (len(raw) + 1) for cut in cuts)


def expect(is_so: object) -> None:
    """Raise AssertionError unless it is so."""
    if not is_so:
        raise AssertionError


def parsed(raw: bytes) -> Any:
    """Return what is in a JSON body; None if it is none, `TOO_DEEP` if it nests so."""
    try:
        return json.loads(raw.decode("utf-8-sig"), parse_int=float)
    except RecursionError:
        return body.TOO_DEEP
    except ValueError:
        return None


def parts(raw: bytes, cuts: list[int]) -> list[bytes]:
    """Return what is between the cuts, but nothing empty."""
    ends = [*cuts, len(raw)]
    return [raw[start:end] for start, end in zip([0, *cuts], ends, strict=True) if start < end]


def check_body(raw: bytes, cuts: list[int]) -> None:
    """Expect that no object is refused, that nothing else passes, and that the key alone is new."""
    value = parsed(raw)
    beginning = body.model_in(raw[: cuts[0]])
    try:
        found = body.read(raw)
        edited = body.with_key(raw, found, KEY)
        stripped = body.without_attribution(raw)
    except ValueError as e:
        expect(str(e) == body.TOO_DEEP or not isinstance(value, dict))
        return
    if value == body.TOO_DEEP:  # for json alone
        return
    names = [name for name in ("model", "metadata", "user", body.NAME) if name in value]
    expect(body.NAME in value or not value or edited.replace(MEMBER, b"", 1) == raw)
    expect(beginning is None or raw.count(b"model") > 1 or value["model"] == beginning)
    with suppress(RecursionError):  # to compare takes more than to read
        fields = json.dumps({name: getattr(found, name) for name in names})
        expect(json.loads(fields, parse_int=float) == {name: value[name] for name in names})
        expect(parsed(edited) == value | {body.NAME: KEY})
        expect(stripped == raw or parsed(stripped) == value | {"system": value["system"][1:]})


def check_session(raw: bytes, _: list[int]) -> None:
    """Expect that an id is whole, printable and not too long."""
    value = parsed(raw)
    end = raw[-300:]
    headers = Headers([(session.SESSION_HEADER.encode(), end), (b"x-claude-code-agent-id", end)])
    text = end.decode(errors="replace")
    expect(session.from_header(headers) in ("", text.strip()))
    fields = value if isinstance(value, dict) else {}
    metadata, user = fields.get("metadata"), fields.get("user")
    users = [text, value, user, metadata.get("user_id") if isinstance(metadata, dict) else None]
    for found in map(session.from_user_id, users):
        expect(not found or (found.isprintable() and len(found) <= session.MAX_LENGTH))
    session.find(headers, metadata, user, text)
    session.find(Headers(), metadata, user, text)


def check_usage(raw: bytes, cuts: list[int]) -> None:
    """Expect the same usage wherever a response is cut, and no more cached than there is."""

    def read(chunks: list[bytes], kind: str, coding: str) -> Usage | None:
        reader = UsageReader(kind, coding)
        for chunk in chunks:
            reader.feed(chunk)
        found = reader.finish()
        expect(not found or 0 <= found.cached <= found.input)
        return found

    for kind in ("text/event-stream", "application/json"):
        bytewise = [bytes([byte]) for byte in raw[:2000]] + [raw[2000:]]
        for chunks in (bytewise, parts(raw, cuts)):
            expect(read([raw], kind, "") == read(chunks, kind, ""))
        for coding in ("gzip", "deflate", "br"):
            read(parts(raw, cuts), kind, coding)


def check_bridge(raw: bytes, cuts: list[int]) -> None:
    """Expect that only who is in flight can have caused a call."""
    bridge = Bridge()
    bridge.add(1, "a", None, lambda: raw)
    bridge.add(2, "b", "main", lambda: raw[: cuts[0]] + raw[cuts[1] :])
    bridge.find(raw[cuts[0] :])
    expect(bridge.find(raw) in (None, (1, "a", None), (2, "b", "main")))
    bridge.remove(1)
    expect(bridge.find(raw) in (None, (2, "b", "main")))


def check_stream(raw: bytes, cuts: list[int]) -> None:
    """Expect that all comes through however it is cut, with the key or as much white space."""
    models: list[str] = []

    def key_of(model: str) -> str:
        models.append(model)
        return KEY

    stream = RequestKey(key_of, len(raw))
    sent = [part for chunk in [*parts(raw, cuts), b""] for part in stream(chunk)]
    expect(all(sent))
    if models:
        stream.check()
        expect(b"".join(sent).replace(MEMBER, b"", 1) == raw)
    else:
        expect(b"".join(sent) == raw + b" " * MEMBER_SIZE * bool(raw))


def check_prefix(raw: bytes, cuts: list[int]) -> None:
    """Expect that a prompt is a prefix of itself, and that a break is somewhere."""
    after, before = parsed(raw), parsed(raw[: cuts[0]] + raw[cuts[1] :])
    if isinstance(after, dict):
        expect(compare(after, parsed(raw)) is None)
        if isinstance(before, dict) and (found := compare(before, after)):
            expect(found.path and found.cause and min(found.at, found.chars) >= 0)


if __name__ == "__main__":
    main()
