"""New conversations of the real Claude Code, through mitmdump and HAProxy to the engines.

An engine with random weights calls no tools. So between mitmdump and HAProxy stands a translator
that sends each prompt on, as Chat Completions, and answers with what moves Claude Code on: the main
agent starts a subagent, then both say goodbye. The counts in its answers are the engine's.
"""

import http.client
from contextlib import closing
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

from lib import ADDON, LOOPBACK
from lib.claude_code import run_claude_code
from lib.dialects import DIALECTS, usage
from lib.gateway import AGENT_HEADER, SESSION_HEADER, call, say, stream
from lib.messages import EVENTS, Reply, Request
from lib.mitmdump import Mitmdump
from lib.playthrough import PATIENCE, Answer, Outcome, Way, engines
from lib.recordings import encoded
from lib.server import Server

_HELP = {"subagent_type": "general-purpose", "run_in_background": False}


class Translator:
    """What a `Server` answers a Claude Code: `Server(translator)`.

    `answers` has what the engine said of each prompt.
    """

    def __init__(self, port: int, header: str) -> None:
        self.answers: list[Answer] = []
        self._port, self._header = port, header

    def __call__(self, request: Request) -> Reply:
        """Answer a prompt, as the engine counts it; 404 for anything else."""
        if not request.target.startswith("/v1/messages?"):
            return Reply(404)
        answer = self._ask(request)
        self.answers.append(answer)
        if not answer.usage:
            return Reply(answer.status or 502)
        prompt, cached = answer.usage
        counts = {"input_tokens": prompt - cached, "cache_read_input_tokens": cached}
        step = say("goodbye")
        is_first = all(each["role"] != "assistant" for each in request.json["messages"])
        if is_first and not request.header(AGENT_HEADER):
            step = call("Agent", description="help", prompt="Say goodbye.", **_HELP)
        body = stream(step.block, counts | {"output_tokens": 2}, request.json["model"])
        return Reply(headers=EVENTS, body=body)

    def _ask(self, request: Request) -> Answer:
        path, translate, end = DIALECTS["chat"]
        identity = request.header(SESSION_HEADER), request.header(AGENT_HEADER)
        headers = {"content-type": "application/json"}
        for name in (self._header, SESSION_HEADER):
            if value := request.header(name):
                headers[name] = value
        connection = http.client.HTTPConnection(LOOPBACK, self._port, timeout=PATIENCE)
        with closing(connection):
            connection.request("POST", path, encoded(translate(request.json)), headers)
            response = connection.getresponse()
            events = response.read().decode(errors="replace")
        return Answer(identity, response.status, usage(events), end in events)


def play_new(way: Way, conversations: int, model: Path) -> Outcome:
    """Let Claude Code begin conversations with a subagent each, in one project of one user.

    Logs, the project, and whatever else the programs need, lie beside the model.
    """
    project = model.parent / "project"
    with engines(way, model) as (replicas, router):
        translator = Translator(router.port, way.header)
        with (
            Server(translator) as server,
            Mitmdump(
                f"reverse:{server.url}",
                scripts=[] if way.options is None else [ADDON],
                args=["--set", "flow_detail=0", *(way.options or ())],
            ) as mitmdump,
        ):
            settings = {"ANTHROPIC_BASE_URL": f"http://{LOOPBACK}:{mitmdump.port}"}
            for number in range(conversations):
                session = str(uuid5(NAMESPACE_OID, f"{way.options} {number}"))
                prompt = f"Ask an agent to say goodbye, {number}."
                run_claude_code(session, prompt, settings, project)
        counts = {replica.name: replica.counts() for replica in replicas}
        return Outcome(counts, router.routed(), translator.answers, mitmdump.lines)
