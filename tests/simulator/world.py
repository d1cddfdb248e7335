"""One simulated world: a clock, a bus, a relay, sweepers, workers, consumers and people, all moved by one seed.

The conductor, the domain and the audit chain are the product's own; the store is the product's twin in memory.
Everything else here is unreliable on purpose. First a stretch with faults; then calm, in which every plan must end
or wait for a human; then every cause is mended, and whatever was given up on must succeed when it is retried.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from random import Random

from orchestrator.conductor import AskHuman, CallAsk, Conductor, Proceed, Replayed, Rules
from orchestrator.domain.budget import Budget, Spent
from orchestrator.domain.errors import (
    AlreadyDecided,
    BudgetSpent,
    Conflict,
    Fenced,
    KeyReused,
    NotFound,
    RequesterDecides,
    WrongRole,
)
from orchestrator.domain.lifecycle import ALIVE
from orchestrator.domain.outcome import Faulted, Held, Outcome, Snoozed
from orchestrator.domain.plan import (
    Approval,
    ApprovalState,
    CallState,
    Chain,
    Claimed,
    Escalation,
    Evidence,
    Request,
    Stage,
    StepRef,
)
from orchestrator.domain.retry import Backoff
from orchestrator.inmemory import InMemoryStore
from orchestrator.messages import Message, Topic
from orchestrator.vault.chain import Sealer
from tests.simulator import mind, promises
from tests.simulator.promises import Broken

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
LEASE = timedelta(seconds=30)
SEALER = Sealer(b"the key of every simulated world")
SOURCE = Evidence.of("q", locator="doc")
APPROVERS = ("approver",)
CALM_ROUNDS = 300
CALM_TURNS = 2_000
PATIENCE = (timedelta(seconds=90), timedelta(hours=1), timedelta(days=30))

RATES: dict[str, tuple[float, ...]] = {
    # chances for each occasion
    "lose": (0.05, 0.3, 0.9),
    "duplicate": (0.1, 0.5),
    "reorder": (0.5, 1.0),
    "die": (0.01, 0.05, 0.15),
    "die in a transaction": (0.02, 0.08, 0.2),
    "pause": (0.05, 0.2),
    "lose connection": (0.05, 0.15),
    "relay dies": (0.1, 0.4),
    "consumer dies": (0.1, 0.4),
    "sweeper dies": (0.1, 0.4),
    "client dies": (0.3, 0.8),
    "person's request dies": (0.2, 0.6),
    "two at once": (0.2, 0.6),
    # how often, next to the eighty ordinary moves
    "wipe": (1, 3),
    "clock jump": (1, 5),
    "cancel": (1, 3),
    "retry": (3, 9),
    "discard": (1, 3),
    "garbage": (1,),
    "hasty people": (3, 9),
}
OCCASIONAL = ("wipe", "clock jump", "cancel", "retry", "discard", "garbage", "hasty people")


class Died(BaseException):
    """The process that was doing this is gone; nobody catches it but the world."""


class BrittleSealer:
    """The product's sealer, at which a process can die in the middle of a transaction."""

    def __init__(self, world: World) -> None:
        self._world = world

    def seal(self, **record):
        if self._world.armed == "middle":
            self._world.armed = None
            raise Died
        return SEALER.seal(**record)

    @staticmethod
    def blind(value):
        return SEALER.blind(value)


class Worker:
    """One worker process and the step in its hands."""

    __slots__ = ("claimed", "connected", "holder", "kept_until", "labour", "message", "paused", "stubborn")

    def __init__(self, holder: int) -> None:
        self.holder = holder
        self.labour: Iterator[None] | None = None
        self.message: Message | None = None
        self.claimed: Claimed | None = None
        self.kept_until = NOON
        self.paused = False
        self.connected = True
        self.stubborn = False


def chains(patience: timedelta) -> dict[str, Chain]:
    """Two at once, then one; whoever does not decide in time is helped once."""
    first = Stage((APPROVERS, APPROVERS), patience, (Escalation(APPROVERS, patience),))
    return {"policy": Chain((first, Stage((APPROVERS,), patience)))}


class World:
    """A world made from one seed; `run` lives it from beginning to end or raises `Broken`."""

    def __init__(self, seed: int, tell: Callable[[str], None] | None = None) -> None:
        self.seed = seed
        self.tell = tell
        self.sealer = SEALER
        self.dice = Random(seed)
        self.random = rnd = self.dice.random
        self.now = NOON
        self.ids = 0
        self.armed: str | None = None
        self.meddling = False
        self.meddled = 0
        self.healed = False
        self.calm = False
        self.faults: dict[str, int] = defaultdict(int)
        self.counted: dict[str, int] = defaultdict(int)

        swarm = rnd()
        mix = {kind: rates[int(rnd() * len(rates))] for kind, rates in RATES.items() if rnd() < swarm}
        self.chance: dict[str, float] = defaultdict(float, mix)
        self.temper = mind.Temper.draw(self.dice)
        self.renews = rnd() < 0.7
        self.acks_early = rnd() < 0.5
        self.attentive = rnd() < 0.7
        self.patient = rnd() < 0.5
        self.kindness = rnd()

        self.alive: set[int] = set()
        self.store = InMemoryStore(self.clock, alive=self.alive.__contains__, on_commit=self.on_commit)
        rules = Rules(
            lease=LEASE,
            max_attempts=(1, 2, 3, 5)[int(rnd() * 4)],
            backoff=Backoff(cap_s=20.0),
            approval_ttl=(patience := PATIENCE[int(rnd() * 3)]),
            chains=chains(patience) if self.kindness * 10 % 1 < 0.4 else {},
            batch=200 if rnd() < 0.8 else 1,
        )
        self.conductor = Conductor(
            self.store,
            BrittleSealer(self),  # type: ignore[arg-type]
            new_id=self.new_id,
            draw=rnd,
            rules=rules,
        )
        self.bus: dict[Topic, list[Message]] = {topic: [] for topic in Topic}
        self.workers = [self.hire() for _ in range((1, 2, 2, 3)[int(rnd() * 4)])]
        self.scripts: dict[tuple[str, int], mind.Script] = {}
        self.ledger = promises.Ledger()
        self.moves = self.ways_to_move()

    # the laws of this world

    def clock(self) -> datetime:
        return self.now

    def new_id(self) -> str:
        self.ids += 1
        return f"00000000-0000-4000-8000-{self.ids:012d}"

    def on_commit(self, when: str) -> None:
        if self.armed == when:
            self.armed = None
            raise Died
        if when == "after" and self.meddling and self.random() < 0.5:
            # a verb of several transactions: others act between two of them
            self.meddling = False
            self.meddled += 1
            self.say("  meanwhile")
            self.meddle()
            self.meddling = True

    def meddle(self) -> None:
        """Another sweeper, workers that wake up and renew, or workers that go on."""
        which = self.random()
        if which < 0.2:
            self.conductor.sweep()
        elif which < 0.4:
            for worker in self.workers:
                worker.paused = False
            self.pass_time(0.0)
        for _ in range(1 + int(self.random() * 3)):
            self.work()

    def say(self, what: str) -> None:
        if self.tell is not None:
            self.tell(f"{(self.now - NOON).total_seconds():8.1f}s  {what}")

    def happens(self, kind: str) -> bool:
        chance = self.chance[kind]
        if chance and not self.calm and self.random() < chance:
            self.faults[kind] += 1
            return True
        return False

    def attempt(self, kind: str, verb: Callable[[], object]) -> object:
        """Do something that a process may die of; a death before the commit must have changed nothing."""
        chance = self.chance[kind]
        if not chance or self.calm or self.random() >= chance:
            return verb()
        self.armed = stage = ("before", "middle", "after")[int(self.random() * 3)]
        before = promises.picture(self.store) if stage != "after" else None
        try:
            return verb()
        except Died:
            self.faults[f"{kind}, {stage}"] += 1
            self.say(
                f"died {stage} the commit" if stage != "middle" else "died in the middle of a transaction"
            )
            if before is not None:
                promises.nothing_changed(self, before)
            raise
        finally:
            self.armed = None

    # from the first request to the last check

    def run(self) -> None:
        """Live: submit, suffer, come to rest, mend, retry."""
        for number in range(1 + (self.random() < 0.25)):
            self.client(number)
        moves, count, rnd = self.moves, len(self.moves), self.random
        for turn in range(20 + int(rnd() * 180)):
            moves[int(rnd() * count)]()
            if turn % 16 == 0 and promises.over(self):
                break
        self.come_to_rest()
        promises.at_rest(self)
        self.mend()
        promises.at_rest(self)
        self.counted["plans"] = len(self.store.plan_rows)
        self.counted["steps"] = sum(map(len, self.store.step_rows.values()))

    def ways_to_move(self) -> list[Callable[[], object]]:
        """The ordinary moves and this world's occasional ones, each as often as it is likely."""
        occasional: dict[str, Callable[[], object]] = {
            "wipe": self.wipe,
            "clock jump": self.jump,
            "cancel": self.cancel,
            "retry": self.retry,
            "discard": self.discard,
            "garbage": self.garbage,
            "hasty people": self.hasty,
        }
        moves = [self.work] * 48 + [self.relay] * 10 + [self.consume] * 10 + [self.sweep] * 3
        moves += [self.pass_time] * 6 + [self.person] * 3
        for kind in OCCASIONAL:
            moves += [occasional[kind]] * int(self.chance[kind])
        return moves

    def come_to_rest(self) -> None:
        """No more faults: everything that can end must end, within a bound and without help."""
        self.calm = True
        self.say("the faults stop")
        for worker in self.workers:
            worker.paused = False
        for _ in range(CALM_ROUNDS):
            for _ in range(CALM_TURNS):
                if not self.relay() + self.consume() + sum(self.move(w) for w in list(self.workers)):
                    break
            if promises.quiet(self):
                if self.patient or not promises.anyone_waits(self):
                    return
                self.say("nobody decides in time")
                self.patient = True
                self.now += self.conductor.rules.approval_ttl
            self.sweep()
            if self.attentive or self.healed:
                self.person()
            if not self.store.outbox:
                self.pass_time(31.0)
        promises.never_rested(self)

    def mend(self) -> None:
        """The causes are gone: retry all that was given up on, as an operator would."""
        given_up = [p.plan_id for p in self.store.plan_rows.values() if p.state in promises.GIVEN_UP]
        if not given_up:
            return
        self.say("every cause is mended")
        self.healed = True
        for plan_id in given_up:
            letters = [
                d for d in self.store.letter_rows.values() if d.plan_id == plan_id and d.state == "open"
            ]
            self.say(f"an operator retries plan {plan_id[-2:]}")
            if letters:
                self.conductor.retry_dead(letters[0].letter_id, by="operator")
            else:  # somebody discarded the letters
                self.conductor.replay(plan_id, by="operator")
            promises.taken_up(self, plan_id)
        self.come_to_rest()
        for plan_id in given_up:
            promises.mended(self, plan_id)

    # those who ask

    def client(self, number: int) -> None:
        """Submit one goal until it is answered, sometimes twice, sometimes with another body."""
        rnd = self.random
        asked = Request(
            goal=f"goal {number}",
            depth=1 + int(rnd() * 3.0),
            requester="ann",
            key=f"key {number}" if rnd() < 0.8 else None,
            budget=Budget(
                steps=8 + int(rnd() * 6) if rnd() < 0.3 else 200,
                calls=int(rnd() * 8) if rnd() < 0.3 else 500,
                tokens=int(rnd() * 800) if rnd() < 0.2 else 1_000_000,
                seconds=int(1 + rnd() * 200) if rnd() < 0.3 else 86_400,
            ),
        )
        again = rnd() < 0.2
        try:
            plan = self.attempt("client dies", lambda: self.conductor.submit(asked))
        except Died:
            if asked.key is None:
                return
            plan = self.conductor.submit(asked)
        else:
            if asked.key is not None and again:
                promises.same_plan(plan, self.conductor.submit(asked))
        self.say(f"plan {plan.plan_id[-2:]} is accepted: depth {plan.depth}, {plan.budget}")
        self.ledger.accepted[plan.plan_id] = asked
        if asked.key is not None and again:
            other = Request(goal="another", requester="ann", key=asked.key)
            promises.must_raise(KeyReused, "P1", lambda: self.conductor.submit(other))

    def cancel(self) -> None:
        alive = [p for p in self.store.plan_rows.values() if p.state in ALIVE]
        if alive and self.random() < 0.3 and not self.calm:
            plan = alive[int(self.random() * len(alive))]
            self.faults["cancel"] += 1
            self.say(f"plan {plan.plan_id[-2:]} is cancelled")
            self.conductor.cancel(plan.plan_id, by="ann")
            promises.cancelled(self, plan.plan_id)

    def person(self) -> int:
        """Somebody looks at one pending approval and decides, or is told why not."""
        pending = [a for a in self.store.approval_rows.values() if a.state is ApprovalState.PENDING]
        if not pending or (not self.calm and self.random() < 0.5):
            return 0
        asked = pending[int(self.random() * len(pending))]
        approve = self.healed or self.random() < 0.4 + self.kindness / 2
        ruled = {r.person for r in self.store.ruling_rows.get(asked.approval_id, ())}
        free = [person for person in ("bob", "eve", "kim", "lee") if person not in ruled]
        self.decide(asked, approve=approve, by=free[0])
        if self.random() < self.chance["two at once"] and not self.healed:
            self.faults["two at once"] += 1
            self.decide(asked, approve=not approve, by=free[1])
        return 1

    def hasty(self) -> None:
        """Those try to decide who may not: the requester, and whoever lacks the role."""
        asks = list(self.store.approval_rows.values())
        if asks:
            asked = asks[int(self.random() * len(asks))]
            self.faults["hasty people"] += 1
            promises.may_not_decide(
                self, RequesterDecides, asked, by="ann", roles=APPROVERS, approve=self.random() < 0.5
            )
            if ruled := self.store.ruling_rows.get(asked.approval_id):
                promises.may_not_decide_again(self, asked, ruled[0])
            promises.may_not_decide(
                self, WrongRole, asked, by="zoe", roles=("viewer",), approve=self.random() < 0.5
            )

    def decide(self, asked: Approval, *, approve: bool, by: str) -> None:
        decidable = promises.decidable(self, asked.approval_id)
        unsure = promises.unsure_calls(self, asked) if approve else ()
        try:
            self.attempt(
                "person's request dies",
                lambda: self.conductor.decide(asked.approval_id, approve=approve, by=by, roles=APPROVERS),
            )
        except AlreadyDecided:
            self.say(f"{by} is too late for approval {asked.approval_id[-2:]}")
            if decidable:
                raise Broken("P6", f"{by} could not decide a pending approval") from None
            return
        except Died:
            if not any(r.person == by for r in self.store.ruling_rows.get(asked.approval_id, ())):
                return
        self.say(f"{by} decides approval {asked.approval_id[-2:]} of step {asked.step}: {approve}")
        promises.decided(self, asked, decidable=decidable, approve=approve, by=by)
        if self.store.approval_rows[asked.approval_id].state is ApprovalState.APPROVED:
            self.ledger.allow(unsure)

    def retry(self) -> None:
        letters = [d for d in self.store.letter_rows.values() if d.plan_id and d.state == "open"]
        if letters and not self.calm:
            letter = letters[int(self.random() * len(letters))]
            self.faults["retry"] += 1
            self.say(f"an operator retries letter {letter.letter_id[-2:]}")
            self.meddling = True
            meddled = self.meddled
            try:
                self.conductor.retry_dead(letter.letter_id, by="operator")
            except Conflict:
                if self.store.plan_rows[letter.plan_id].state in promises.GIVEN_UP:
                    raise Broken("P4", "an open dead letter could not be retried") from None
            else:
                if meddled == self.meddled:
                    promises.taken_up(self, letter.plan_id)
            finally:
                self.meddling = False

    def discard(self) -> None:
        letters = [d for d in self.store.letter_rows.values() if d.state == "open"]
        if letters and self.random() < 0.3 and not self.calm:
            letter = letters[int(self.random() * len(letters))]
            self.faults["discard"] += 1
            self.conductor.discard_dead(letter.letter_id, by="operator")
            promises.must_raise(
                Conflict, "P4", lambda: self.conductor.retry_dead(letter.letter_id, by="operator")
            )

    # the clock, the bus, the relay, the sweepers, the consumers

    def pass_time(self, seconds: float | None = None) -> None:
        self.now += timedelta(seconds=self.random() * 8 if seconds is None else seconds)
        if self.renews:
            for worker in self.workers:
                if worker.claimed is not None and not worker.paused:
                    self.renew(worker)

    def jump(self) -> None:
        """Time passes at once in which nobody could renew: the machine was asleep."""
        self.faults["clock jump"] += 1
        self.now += timedelta(seconds=10 + self.random() * 90)
        self.say("the clock jumps")

    def wipe(self) -> None:
        """The broker loses all it has."""
        if self.random() < 0.3:
            self.faults["wipe"] += 1
            self.say("the bus is wiped")
            for queue in self.bus.values():
                queue.clear()

    def garbage(self) -> None:
        """A message about a plan that never was ends among the dead letters."""
        self.faults["garbage"] += 1
        ref = StepRef("00000000-0000-4000-8000-999999999999", 1)
        try:
            self.conductor.begin(ref, holder=0)
        except NotFound as error:
            letter = self.conductor.bury_message(reason="not_found", detail=str(error), ref=ref)
            promises.listed(self, letter)

    def publish(self, messages: list[Message]) -> None:
        for message in messages:
            if self.happens("lose"):
                self.say(f"the bus loses {message.topic} {message.ref.number}")
                continue
            queue = self.bus[message.topic]
            queue.append(message)
            if self.happens("duplicate"):
                queue.append(message)

    def relay(self) -> int:
        """Move the outbox to the bus; a relay may die before, between or after."""
        outbox = self.store.outbox
        if not outbox:
            return 0
        try:
            self.attempt("relay dies", self._relay)
        except Died:
            self.say("a relay dies")
        return 1

    def _relay(self) -> None:
        with self.store.transaction() as tx:
            messages = tx.take_outbox(1 + int(self.random() * 20))
            if self.armed == "middle":
                self.armed = None
                raise Died
            self.publish(messages)

    def take(self, topic: Topic) -> Message | None:
        queue = self.bus[topic]
        if not queue:
            return None
        if self.happens("reorder"):
            return queue.pop(int(self.random() * len(queue)))
        return queue.pop(0)

    def consume(self) -> int:
        """Settle what waits, in a batch; a consumer that dies leaves its messages to be delivered again, or lost."""
        message = self.take(Topic.COMPLETIONS)
        if message is None:
            return 0
        batch = [message]
        while self.random() < 0.4 and (further := self.take(Topic.COMPLETIONS)) is not None:
            if any(each.ref.plan_id == further.ref.plan_id for each in batch):
                # the next step of a plan is a transaction of its own; here each may be broken off at any point
                self.bus[Topic.COMPLETIONS].insert(0, further)
                break
            batch.append(further)
        refs = [each.ref for each in batch]
        self.say(f"settle {', '.join(f'step {r.number} of plan {r.plan_id[-2:]}' for r in refs)}")
        try:
            self.attempt("consumer dies", lambda: self.conductor.settle_all(refs))
        except Died:
            if self.random() < 0.8:
                self.bus[Topic.COMPLETIONS].extend(batch)
        return len(batch)

    def sweep(self) -> None:
        """One sweep, or two that run into each other, while workers go on between a sweeper's transactions."""
        self.meddling = undisturbed = not self.calm and self.random() < 0.5
        undisturbed = not undisturbed
        if self.happens("sweeper dies"):
            self.armed = ("before", "after", "middle")[int(self.random() * 3)]
            undisturbed = False
        try:
            swept = self.conductor.sweep()
        except Died:
            self.say("a sweeper dies")
        else:
            if self.tell is not None and swept:
                self.say(f"{swept}")
            if undisturbed and self.conductor.rules.batch > 1:
                promises.swept(self)
        finally:
            self.meddling = False
            self.armed = None

    # workers

    def hire(self) -> Worker:
        self.ids += 1
        worker = Worker(self.ids)
        self.alive.add(worker.holder)
        return worker

    def work(self) -> None:
        self.move(self.workers[int(self.random() * len(self.workers))])

    def move(self, worker: Worker) -> int:
        """Let one worker do its next thing; 1 if it did one."""
        if worker.paused:
            # a worker that wakes up when its step is in other hands is the most dangerous
            if self.random() < (0.5 if promises.replaced(self, worker) else 0.04):
                worker.paused = False
            return 0
        if worker.labour is None:
            message = self.take(Topic.STEPS)
            if message is None:
                return 0
            worker.message = message
            worker.labour = self.labour(worker, message.ref)
        if not self.calm:
            if self.happens("die"):
                self.bereave(worker)
                return 1
            if self.happens("pause"):
                worker.paused = True
                self.say(f"worker {worker.holder} is stopped")
                if self.random() < 0.5:  # for longer than its lease
                    self.pass_time(31.0)
                    self.sweep()
                    self.relay()
                return 1
            if self.happens("lose connection"):
                self.say(f"worker {worker.holder} loses its connection and works on")
                worker.connected = False
                self.alive.discard(worker.holder)
                if self.random() < 0.5:  # slowly
                    worker.paused = True
                    self.sweep()
                    self.relay()
                return 1
        try:
            self.attempt("die in a transaction", lambda: next(worker.labour, self))
            # an exhausted generator has no frame
            if worker.labour.gi_frame is None:
                worker.labour = worker.message = worker.claimed = None
                if not worker.connected:
                    self.replace(worker)
        except Died:
            self.bereave(worker)
        return 1

    def bereave(self, worker: Worker) -> None:
        """A worker is gone; what it had not acknowledged comes again, unless the bus lost that too."""
        self.say(f"worker {worker.holder} dies")
        if worker.message is not None and self.random() < 0.7:
            self.bus[Topic.STEPS].append(worker.message)
        self.replace(worker)

    def replace(self, worker: Worker) -> None:
        self.alive.discard(worker.holder)
        self.workers[self.workers.index(worker)] = self.hire()

    def hang(self, worker: Worker) -> None:
        """A worker is stuck for good: its process lives, so that only its lease tells."""
        self.faults["hang"] += 1
        self.say(f"worker {worker.holder} hangs")
        self.workers[self.workers.index(worker)] = self.hire()

    def renew(self, worker: Worker) -> None:
        held = promises.held(self, worker)
        kept = self.conductor.renew(worker.claimed)
        promises.wrote(self, worker, "renew", wrote=kept, held=held)
        if kept:
            worker.kept_until = self.now + LEASE
        elif self.random() < 0.5:  # the others do not listen, and find out when they write
            worker.labour = worker.message = worker.claimed = None
            if not worker.connected:
                self.replace(worker)

    def labour(self, worker: Worker, ref: StepRef) -> Iterator[None]:
        """What a step consumer and its executor do with one message, one thing at a time."""
        before = self.store.step_rows[ref.plan_id][ref.number]
        claimed = self.conductor.begin(ref, holder=worker.holder)
        promises.begun(self, before, claimed, worker)
        if claimed is None:
            return
        worker.claimed = claimed
        worker.kept_until = self.now + LEASE
        self.say(
            f"worker {worker.holder} begins step {ref.number} ({claimed.step.agent}) of plan {ref.plan_id[-2:]}: "
            f"claim {claimed.claim}, attempt {claimed.step.attempt}"
        )
        if self.acks_early:
            worker.message = None
        yield
        if self.random() < 0.3:  # it takes a while
            self.conductor.tell_started(claimed)
            yield
        name = (ref.plan_id, ref.number)
        made = self.scripts.get(name)
        if made is None:
            made = self.scripts[name] = mind.script(claimed, self.temper, self.dice)
        outcome: Outcome | None = None
        match made.mood(healed=self.healed):
            case "snooze":
                outcome = Snoozed(0.0 if self.random() < 0.3 else self.random() * 40)
            case "fault":
                outcome = Faulted("mood", "Something broke for a moment.")
            case "die":
                self.faults["step kills worker"] += 1
                raise Died
            case "hang":
                self.hang(worker)
                yield
        if outcome is None and made.asks and not promises.allowed(self, ref):
            outcome = Held("policy", "May this step go on?", "digest of the arguments", APPROVERS)
        if outcome is None:
            outcome = yield from self.think(worker, claimed, made)
            if outcome is None:
                return
        self.hand_in(worker, claimed, outcome)
        yield

    def think(self, worker: Worker, claimed: Claimed, made: mind.Script) -> Iterator[None]:
        """Make the script's calls, each journalled; the outcome, or `None` when the worker was fenced off."""
        evidence = None
        cut = False
        for tool in made.tools:
            if self.random() < 0.3:
                call = self.conductor.recall(claimed, tool.key, tool.occurrence)
                if call is not None and call.state is CallState.DONE:
                    evidence = call.evidence
                    continue
            ask = CallAsk(
                tool=tool.key,
                key=tool.key,
                occurrence=tool.occurrence,
                semantics=tool.semantics,
                arguments={},
                decision={"allow": True},
                reserve=Spent(calls=1, tokens=100),
            )
            held = promises.held(self, worker, writes=True)
            try:
                intent = self.conductor.intend(claimed, ask)
            except Fenced:
                promises.wrote(self, worker, "intend", wrote=False, held=held)
                return None
            except BudgetSpent:
                promises.spent_up(self, claimed, ask)
                self.faults["budget spent"] += 1
                cut = True
                break
            promises.wrote(self, worker, "intend", wrote=True, held=held)
            promises.intended(self, claimed, tool, intent)
            match intent:
                case Replayed(call=call):
                    evidence = call.evidence
                    continue
                case AskHuman():
                    return Held("repeat", "It may have happened. Again?", tool.key, APPROVERS)
                case Proceed():
                    self.say(
                        f"worker {worker.holder} intends {tool.key}.{tool.occurrence} ({tool.semantics})"
                    )
            yield
            trouble = tool.trouble(healed=self.healed)
            if trouble == "hang" and self.random() < 0.5:
                self.hang(worker)
                yield
            if trouble != "fail":
                promises.executed(self, claimed, tool, made)
            if trouble == "hang":
                self.hang(worker)
                yield
            if trouble == "die":
                self.faults["tool kills worker"] += 1
                raise Died
            if trouble == "lose outcome":
                self.faults["outcome not recorded"] += 1
                return Faulted("unavailable", "What came of the call could not be recorded.")
            yield
            state = {"fail": CallState.FAILED, "time out": CallState.UNKNOWN}.get(trouble, CallState.DONE)
            held = promises.held(self, worker, writes=True)
            known = state is CallState.DONE
            try:
                self.conductor.conclude(
                    claimed,
                    ask,
                    state=state,
                    result="done" if known else None,
                    evidence=SOURCE if known else None,
                    error=None if known else trouble,
                    spent=Spent(calls=1, tokens=int(self.random() * 100)) if known else None,
                )
            except Fenced:
                promises.wrote(self, worker, "conclude", wrote=False, held=held)
                return None
            promises.wrote(self, worker, "conclude", wrote=True, held=held)
            if not known:
                self.faults[f"tool: {trouble}"] += 1
                return Faulted("tool_failed", f"The tool did {trouble}.")
            promises.concluded(self, claimed, tool)
            evidence = SOURCE.sha256
            yield
        outcome = mind.finish(made, claimed, evidence, cut=cut, healed=self.healed)
        if outcome is None:
            self.faults["step kills worker"] += 1
            raise Died
        return outcome

    def hand_in(self, worker: Worker, claimed: Claimed, outcome: Outcome) -> None:
        held = promises.held(self, worker)
        self.say(
            f"worker {worker.holder} reports {type(outcome).__name__.lower()} for step {claimed.ref.number}"
        )
        try:
            wrote = self.conductor.report(claimed, outcome)
        finally:
            # also when it died after its commit
            promises.handed_in(self, worker, outcome, held=held)
        promises.wrote(self, worker, "report", wrote=wrote, held=held)
        worker.claimed = None
