"""Feed recorded bodies, broken in any way, to all that reads what others have sent.

Guided by coverage where atheris is installed, else by chance. Ends with the first input that makes
something raise what its docstring does not allow, or break what it promises.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from contextlib import nullcontext, suppress
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from lib.recordings import DATA, records
from mitmproxy.http import Headers

try:
    import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]
except ImportError:
    atheris = None

with atheris.instrument_imports(["prompt_cache_key"]) if atheris else nullcontext():
    from prompt_cache_key.body import ABSENT, MEMBER_SIZE, NAME, Body
    from prompt_cache_key.bridge.waiting import Origin, WaitingRequests
    from prompt_cache_key.finished import FinishedRequest
    from prompt_cache_key.identity import (
        AGENT_HEADER,
        MAX_LENGTH,
        SESSION_HEADER,
        Identity,
        find_identity,
        find_user,
    )
    from prompt_cache_key.misses.judge import judge
    from prompt_cache_key.misses.prefix import compare
    from prompt_cache_key.rejections.forms import rejection
    from prompt_cache_key.streaming.held_request import HeldRequest
    from prompt_cache_key.strip import STRIPPED, strip
    from prompt_cache_key.usage.accounting import Accounting
from prompt_cache_key.usage.reader import Usage, UsageReader

T = TypeVar("T")

KEY = "00000000-0000-4000-8000-000000000000"
MEMBER = f'"{NAME}":"{KEY}"'.encode()
TOO_DEEP = object()

RESPONSES = [
    b'data: {"message":{"usage":{"input_tokens":9,"cache_read_input_tokens":20}}}\n\ndata: {}\n\n',
    b'data: {"choices":[{"usage":{"cached_tokens":5}}],"usage":{"prompt_tokens":9}}\r\n\r\n',
    b'{"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":1}}}',
    b'{"error":{"message":"prompt_cache_key: Extra inputs are not permitted"}}',
]
REQUESTS = [b"{}", b'{"model":"m","x":[{"model":"y"}],"user":"_session_a"}']
REQUESTS += [
    record["body"].encode()
    for path in sorted(DATA.glob("*.jsonl"))
    for record in records(path.stem)
]
PIECES = [
    *(
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
    ),
    *(b"\xef\xbb\xbf", b"\xe2\x9c\x93", b"\xe2", b"\xff", b"\\ud83d", b"null", b"NaN", b"9" * 5000),
    *(b"[" * 20_000, b'{"":' * 20_000, b"[" * 5000 + b"]" * 5000, b'"_session_%b"' % (b"a" * 250)),
    *(b'"prompt_cache_key":', b'"model":"m",', b',"metadata":', b'"user":', b'"usage":{'),
    *(b'"cached_tokens":9,', b"x-anthropic-billing-header: a=b;", b"<total_tokens>9 tokens left"),
]


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
    for each in CHECKS:
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
    """Return what is in a JSON body; None if it is none, TOO_DEEP if it nests so."""
    try:
        return json.loads(raw.decode("utf-8-sig"), parse_int=float)
    except RecursionError:
        return TOO_DEEP
    except ValueError:
        return None


def is_same(a: object, b: object) -> bool:
    """Tell whether values are the same in JSON, NaN too; true of those too deep to be compared."""
    try:
        # As floats: of digits beyond 4,300 json knows no integers.
        return json.dumps(a, sort_keys=True) == json.dumps(
            json.loads(json.dumps(b), parse_int=float), sort_keys=True
        )
    except RecursionError:
        return True


def is_plain(raw: bytes, value: dict[str, Any]) -> bool:
    """Tell whether the names of an object's members are written once each, without escapes."""
    pairs: list[Any] = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=list, parse_int=float)
    names = [name for name, _ in pairs]
    is_bare = all(
        json.dumps(name, ensure_ascii=False).encode(errors="surrogatepass") in raw for name in names
    )
    return is_bare and max(Counter(names).values(), default=1) == 1 and len(names) == len(value)


def parts(raw: bytes, cuts: list[int]) -> list[bytes]:
    """Return what is between the cuts, but nothing empty."""
    ends = [*cuts, len(raw)]
    return [raw[start:end] for start, end in zip([0, *cuts], ends, strict=True) if start < end]


def check_body(raw: bytes, _: list[int]) -> None:
    """Expect of a valid object that a glance says what the whole reading says."""
    value = parsed(raw)
    if not isinstance(value, dict):
        with suppress(ValueError):
            body = Body(raw)
            expect(isinstance(body.model, str))
            expect((body.metadata, body.user, body.own_key, body.has_key))
        return
    body = Body(raw)
    expect(is_same(value, body.whole))
    if is_plain(raw, value):
        model = value.get("model")
        expect(Body(raw).model == (model if isinstance(model, str) else ""))
        expect(is_same(value.get("metadata"), Body(raw).metadata))
        expect(is_same(value.get("user"), Body(raw).user))
        own = Body(raw).own_key
        expect(is_same(value.get(NAME, ""), "" if own is ABSENT else own))


def check_key(raw: bytes, _cuts: list[int]) -> None:
    """Expect that the key alone is new."""
    value = parsed(raw)
    try:
        edited = Body(raw).with_key(KEY)
    except ValueError:
        expect(not isinstance(value, dict))
        return
    if isinstance(value, dict):
        expect(is_same(value | {NAME: KEY}, parsed(edited)))
    if NAME.encode() not in raw:
        front, _found, behind = edited.partition(MEMBER)
        expect(raw in (front + behind, front + behind.removeprefix(b",")))


def check_strip(raw: bytes, _: list[int]) -> None:
    """Expect that nothing but volatile text goes, and that an object stays one."""
    value = parsed(raw)
    try:
        stripped = parsed(strip(raw, STRIPPED))
    except ValueError:  # the text cannot be found within the bounds
        return
    if isinstance(value, dict):
        for name in value.keys() - {"system", "instructions", "messages", "input", "metadata"}:
            expect(is_same(value[name], stripped[name]))
        expect(value.keys() == stripped.keys())


def check_speaker(raw: bytes, _: list[int]) -> None:
    """Expect that an id is whole, printable and not too long."""
    end = raw[-300:]
    headers = Headers([(SESSION_HEADER, end), (AGENT_HEADER, end)])
    with suppress(ValueError):
        body = Body(raw)
        for identity in filter(
            None, (find_identity(headers, body), find_identity(Headers(), body))
        ):
            for text in identity:
                expect(text and text.isprintable() and len(text) <= MAX_LENGTH)
        for user in filter(None, [find_user(body)]):
            expect(any(user) and max(map(len, user)) <= MAX_LENGTH)


def check_usage(raw: bytes, cuts: list[int]) -> None:
    """Expect the same usage wherever a response is cut, and no more cached than there is."""

    def read(chunks: list[bytes], coding: str = "") -> tuple[Usage | None, str, str]:
        reader = UsageReader(coding)
        for chunk in chunks:
            reader.feed(chunk)
        found = Accounting().settle(None, reader.finish())
        expect(not found or 0 <= (found.cached or 0) <= found.input)
        for text in (reader.diagnosis, reader.response_id):
            expect(text.isprintable() and len(text) <= MAX_LENGTH)
        return found, reader.diagnosis, reader.response_id

    for body in (raw, b"data: " + raw):
        bytewise = [bytes([byte]) for byte in body[:2000]] + [body[2000:]]
        for chunks in (bytewise, parts(body, cuts)):
            expect(read([body]) == read(chunks))
    for coding in ("gzip", "deflate", "br", "zstd"):
        read(parts(raw, cuts), coding)


def check_rejection(raw: bytes, _: list[int]) -> None:
    """Expect that an error is refused in words of ours."""
    found = rejection(400, raw)
    expect(found.isascii() and found.isprintable() and len(found) <= 40)  # noqa: PLR2004
    expect(not found or NAME.encode() in raw)


def check_bridge(raw: bytes, cuts: list[int]) -> None:
    """Expect that only who is in flight can have caused a call."""
    a, b = Identity("a", "main", "header"), Identity("b", "main", "header")
    bridge = WaitingRequests()
    bridge.add(1, a, lambda: raw)
    bridge.add(2, b, lambda: raw[: cuts[0]] + raw[cuts[1] :])
    first, second = Origin(1, a, None, (1,)), Origin(2, b, None, (2,))
    result_of(bridge.find(raw[cuts[0] :]))
    expect(result_of(bridge.find(raw)) in (None, first, second))
    expect(result_of(bridge.find(raw, session="b")) == second)
    bridge.remove(1)
    expect(result_of(bridge.find(raw)) in (None, second))


def result_of(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what a coroutine returns that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as e:
        result: T = e.value
        return result
    raise AssertionError


def check_stream(raw: bytes, cuts: list[int]) -> None:
    """Expect that all comes through however it is cut, edited or with as much white space."""

    def edit(whole: bytes) -> bytes:
        expect(whole == raw)
        return Body(whole).with_key(KEY)

    stream = HeldRequest(len(raw), edit)
    sent = [part for chunk in [*parts(raw, cuts), b""] for part in stream(chunk)]
    expect(all(sent))
    came = b"".join(sent)
    expect(len(came) == (len(raw) + MEMBER_SIZE if raw else 0))
    expect(came.rstrip() == (raw if stream.problem or not raw else edit(raw)).rstrip())


def check_prefix(raw: bytes, cuts: list[int]) -> None:
    """Expect that a prompt is a prefix of itself, and that a break is somewhere."""
    cut = raw[: cuts[0]] + raw[cuts[1] :]
    after, before = parsed(raw), parsed(cut)
    if isinstance(after, dict):
        expect(compare(after, parsed(raw)).end is None)
        if isinstance(before, dict) and (end := compare(before, after).end):
            expect(end.path and end.at >= 0)
            expect(all(text.isprintable() for text in (end.path, end.before, end.after)))
    usage = Usage(100_000, 0, None, None)
    request = FinishedRequest(2, "s", "main", "m", "e", "k", usage=usage, body=raw)
    if miss := judge([request._replace(time=1, body=cut)], request):
        expect(miss.cause and miss.missed > 0)
        expect(all(text.isprintable() for text in (miss.cause, miss.path, miss.remedy)))


CHECKS = (
    *(check_body, check_key, check_strip, check_speaker, check_stream, check_bridge),
    *(check_usage, check_rejection, check_prefix),
)


if __name__ == "__main__":
    main()
