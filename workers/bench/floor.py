"""The least that a durable step costs with these servers: one message and one transaction, and no product around it.

A message names a chain and a step. Whoever takes it stores a result and the chain's progress in one transaction,
publishes the next message, waits for the broker's confirm, and acknowledges. One process, one connection to each.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import amqp
import psycopg

from orchestrator.bus import connect
from workers.bench import RESULT_BYTES, STEPS

_QUEUE = "bench.floor"
_TAKE = """
  WITH moved AS (
UPDATE floor_chain SET step = step + 1 WHERE chain = %(chain)s AND step = %(step)s RETURNING chain)
INSERT INTO floor_result (chain, step, result) SELECT chain, %(step)s, %(result)s FROM moved
"""


def run(dsn: str, broker_url: str, chains: int) -> None:
    """Carry that many chains of eight steps to their ends, and leave nothing behind."""
    with psycopg.connect(dsn, autocommit=True) as database:
        database.execute("CREATE TABLE floor_chain (chain integer PRIMARY KEY, step integer NOT NULL)")
        database.execute(
            "CREATE TABLE floor_result (chain integer, step integer, result text, PRIMARY KEY (chain, step))"
        )
        database.execute("INSERT INTO floor_chain SELECT n, 1 FROM generate_series(1, %s) AS n", (chains,))
        consuming, publishing = connect(broker_url), connect(broker_url)
        try:
            _carry(database, consuming, publishing.channel(), chains)
        finally:
            consuming.collect()
            publishing.collect()
            database.execute("DROP TABLE floor_chain, floor_result")


def _carry(database: psycopg.Connection[Any], consuming: Any, out: Any, chains: int) -> None:
    result, waiting, left = "x" * RESULT_BYTES, list[Any](), chains
    out.queue_declare(_QUEUE, durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})
    out.confirm_select()
    for chain in range(1, chains + 1):
        out.basic_publish(_message(chain, 1), "", _QUEUE)
    channel = consuming.channel()
    channel.basic_qos(0, 64, False)
    channel.basic_consume(_QUEUE, callback=waiting.append)
    while left:
        consuming.drain_events(timeout=30)
        while waiting:
            message = waiting.pop(0)
            chain, step = json.loads(message.body)
            database.execute(_TAKE, {"chain": chain, "step": step, "result": result})
            if step < STEPS:
                out.basic_publish_confirm(_message(chain, step + 1), "", _QUEUE)
            else:
                left -= 1
            channel.basic_ack(message.delivery_tag)
    out.queue_delete(_QUEUE)


def _message(chain: int, step: int) -> amqp.Message:
    return amqp.Message(json.dumps([chain, step]), delivery_mode=2)


def transactions(dsn: str, steps: int) -> None:
    """Take that many rows and write a result to each, one transaction after the other."""
    result = "x" * RESULT_BYTES
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE floor (number integer PRIMARY KEY, state text, result text)")
        connection.execute("INSERT INTO floor SELECT n, 'ready' FROM generate_series(1, %s) AS n", (steps,))
        for number in range(1, steps + 1):
            connection.execute(
                "UPDATE floor SET state = 'done', result = %s WHERE number = %s AND state = 'ready'",
                (result, number),
            )


def main() -> None:
    """Run in a process of its own, which is what is measured: DSN, broker, chains."""
    dsn, broker_url, chains = sys.argv[1:]
    sys.stdin.readline()
    began = time.monotonic()
    run(dsn, broker_url, int(chains))
    sys.stdout.write(f"{time.monotonic() - began}\n")


if __name__ == "__main__":
    main()
