"""What is true after everything that died was started again. Judged from what clients got, what the backend
was asked, and what the database holds; of the ledger's files only the unresolved ids are read, by a reader of
our own.

Every request has a prompt count that no other one has, and a completion count made from it, so that an
event tells by its figure whose it is, and an event that was billed twice or invented cannot pass for another.

  lost     an answer that a client got whole has no event; a stream of which it got anything has neither an
           event nor an unresolved record; an answer without a figure is not among the unresolved ones
  double   two events for one request
  wrong    an event with another figure, id, user, key, model or date than its request's; an event of a request
           that nobody sent, or that is free; an unresolved record beside an event; a process that ended in a
           way it should not, a start that did not succeed, a status that the contract does not know

Of an answer without a figure a person may say it: once the command has said that it did, the event is there and the
unresolved record is not; before, one of the two.

An event of a request whose client got nothing, or 503, is none of these: it was under way when the proxy died, or the
disk kept what it said it had not.

What is true besides when nothing died: every request that the backend answered is billed, and no other.
"""

import datetime
import itertools
import threading
import time

LOST, DOUBLE, WRONG = "lost", "double", "wrong"
FIRST_NUMBER = 1000

# What the backend does with it: see load.py.
CONTINUOUS = {"running", "long"}
STREAMED = CONTINUOUS | {"stream", "silent", "slow", "gone", "refused_stream"}
WITHOUT_FIGURE = {"silent", "plain_silent"}
FREE = {"refused", "refused_stream"}
RUNNING_STEPS = 4


def completion_of(number):
    return 3 * number + 1


class Request:
    """One request: what was asked, and all that was seen of it. Its client's thread and the backend's write,
    the judge reads after both."""

    def __init__(self, number, kind):
        self.number = number  # the prompt count of its figure
        self.kind = kind
        self.sent = None  # wall time; nothing: not yet
        self.ids = set()  # under which the backend was asked
        self.status = None
        self.id = None  # that its client was told
        self.began = False  # its client has an event of the backend's stream, or anything of a plain answer
        self.whole = False  # its client has the terminal event, or of a plain answer anything: both wait for the bill
        self.ended = False  # the backend has answered to its end
        self.is_said = False  # a person was about to say its figure
        self.is_taken = False  # and was told that it is recorded
        self.error = None

    @property
    def is_open_to_word(self):
        """Its client has it, so the ledger holds that it is unresolved, and nobody has said more."""
        return self.kind in WITHOUT_FIGURE and self.whole and bool(self.ids) and not self.is_said

    @property
    def may_be_billed(self):
        return self.kind not in FREE and (self.kind not in WITHOUT_FIGURE or self.is_said)

    @property
    def is_streamed(self):
        return self.kind in STREAMED

    def figures(self):
        """The completion counts that its event may have, the final one last."""
        final = completion_of(self.number)
        running = [final * step // RUNNING_STEPS for step in range(1, RUNNING_STEPS)]
        return [*running, final] if self.kind in CONTINUOUS else [final]

    def copy(self):
        """As it is now, for a judgement of this moment."""
        twin = Request(self.number, self.kind)
        twin.__dict__.update(self.__dict__, ids=set(self.ids))
        return twin

    def __repr__(self):
        return f"<{self.kind} {self.number} {self.ids or ''} {self.status or ''} {'whole' if self.whole else ''}>"


class Journal:
    """All requests of one ledger's life."""

    _numbers = itertools.count(FIRST_NUMBER)  # of this process: no two journals share one

    def __init__(self, before=()):
        self.requests = {request.number: request.copy() for request in before}
        self._lock = threading.Lock()

    def add(self, kind):
        with self._lock:
            request = Request(next(self._numbers), kind)
            self.requests[request.number] = request
        return request

    def copy(self):
        with self._lock:
            return [request.copy() for request in self.requests.values()]


class Truth:
    """What there is now: `events` as rig.database gives them, `unresolved` and `dead` ids."""

    def __init__(self, events, unresolved, dead=frozenset()):
        self.events, self.unresolved, self.dead = events, unresolved, dead


# What the rig's keys say of a token (rig/database.py).
USER, KEY = "user2", "66fd1d1de3a0c3eaae1b0c02"
CLOCK_SLACK = 1.0  # seconds: dates are whole milliseconds, and the copy of a start may lie a little later


def judge(requests, truth, all_lived=False):
    """(word, sentence) for all that is not true. `all_lived`: nothing died or failed."""
    problems = []
    by_number = {}
    for event in truth.events:
        by_number.setdefault(event["prompt_n"], []).append(event)
    known = {request.number: request for request in requests}
    for number, events in by_number.items():
        if number not in known:
            problems.append((WRONG, f"an event that nobody asked for: {events}"))
        elif len(events) > 1:
            problems.append((DOUBLE, f"{known[number]} has {len(events)} events: {events}"))
    for request in requests:
        events = by_number.get(request.number, [])
        problems += _judge_events(request, events)
        problems += _judge_absence(request, events, truth, all_lived)
    # A stream's intent may be durable before its call is at the backend, where we learn ids.
    strangers = truth.unresolved.difference(*(request.ids for request in requests))
    lost_calls = [request for request in requests if request.sent and request.is_streamed and not request.ids]
    if len(strangers) > len(lost_calls):
        problems.append((WRONG, f"unresolved, but never asked: {strangers}; on their way were {lost_calls}"))
    problems += [(LOST, f"dead: {id}") for id in sorted(truth.dead)]
    return problems


def _judge_events(request, events):
    for event in events:
        told = f"{request}: {event}"
        figures = request.figures()
        if not request.may_be_billed:
            yield WRONG, f"billed without a figure: {told}"
        elif event["completion_n"] not in (figures[-1:] if request.whole else figures):
            yield WRONG, f"figure: {told}"
        if event["id"] not in request.ids or (request.id and event["id"] != request.id):
            yield WRONG, f"id: {told}"
        if (event["user_id"], event["api_key_id"], event["model"]) != (USER, KEY, model_of(request.kind)):
            yield WRONG, f"user, key or model: {told}"
        created = _seconds(event["date_created"])
        if request.sent is None or not request.sent - CLOCK_SLACK <= created <= time.time() + CLOCK_SLACK:
            yield WRONG, f"date: {told}"


def _judge_absence(request, events, truth, all_lived):
    unresolved = request.ids & truth.unresolved
    if all_lived and events and request.status not in (200, None):
        yield WRONG, f"refused, yet billed: {request}: {events}"
    if events and unresolved:
        yield WRONG, f"an event and unresolved: {request}: {events}"
    if len(unresolved) > 1 or (unresolved and request.kind == "refused"):
        yield WRONG, f"unresolved: {request}: {unresolved}"
    if request.kind in FREE:
        return
    if request.is_taken:
        if not events:
            yield LOST, f"its figure was taken, and is not billed: {request}"
        return
    if request.kind in WITHOUT_FIGURE:
        if events:
            return
        if (request.whole or (request.began and request.is_streamed)) and not unresolved:
            yield LOST, f"not among the unresolved: {request}"
        return
    if request.whole and not events:
        yield LOST, f"answered, not billed: {request}"
    elif request.began and not events and not unresolved:
        yield LOST, f"begun, neither billed nor unresolved: {request}"
    elif all_lived and request.ended and not events:
        yield LOST, f"nothing died, yet not billed: {request}"


def model_of(kind):
    return "continuous" if kind in CONTINUOUS else "m"


def _seconds(date):
    if date.tzinfo is None:
        date = date.replace(tzinfo=datetime.timezone.utc)
    return date.timestamp()
