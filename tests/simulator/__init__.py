"""A seeded simulator: the production conductor in a world of lost messages, dying workers and hasty people.

    python -m tests.simulator --seeds 10000          run many worlds, each from one number
    python -m tests.simulator --seed 17 --trace      tell one world's history

One seed decides everything: the plans, the faults and their rates, and who moves next. `world` is the world,
`mind` what the agents in it will do, `promises` what must hold, `mutations` the guards whose removal must show.
"""
