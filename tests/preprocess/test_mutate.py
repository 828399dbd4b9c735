"""Two thousand photos damaged at random cost a row each; `python -m tests.preprocess.mutate` tries as many as wanted."""

from tests.preprocess.mutate import audit_mutations, mutation


def test_2_000_mutations_cost_a_row_each() -> None:
    found = audit_mutations(2000, seed=1, workers=2)
    assert found.total() == 2000
    assert found["kept"] + found["repaired"] > 200
    assert len([outcome for outcome in found if outcome.startswith("refused: ")]) >= 4


def test_a_mutation_can_be_made_again() -> None:
    assert [mutation(7, 3), mutation(7, 3) == mutation(7, 4)] == [mutation(7, 3), False]
