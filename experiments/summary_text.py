"""Sentences that summarise the numbers of a study, claiming no more than they show."""

from experiments.matrix import BASE, TUNED, Matrix
from experiments.matrix_tables import signed
from mimii_jax.report.tables import digits
from mimii_jax.results.metrics import Estimate
from mimii_jax.results.per_id import MEAN


def about_rows(matrix: Matrix) -> str:
    """Range of the rows, and those that differ from the base beyond noise."""
    means = _means(matrix)
    if len(means) < 2:
        return _alone(means)
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    text = (
        f"Mean AUC ranges from {digits(means[worst])} ({worst}) to "
        f"{digits(means[best])} ({best})."
    )
    if matrix.base not in means:
        return text
    changes = {row: matrix.change(row, MEAN) for row in means if row != matrix.base}
    base = f"“{matrix.base}” has {digits(means[matrix.base])}"
    return f"{text} {base}; {_noise(changes)}"


def about_matrix(matrix: Matrix) -> str:
    """Cost of training on less than all, and the effect of fine-tuning."""
    means = _means(matrix)
    if BASE not in means:
        return "No model was trained on all machine IDs."
    model = matrix.name.split(",")[0]
    parts = [f"Trained on all IDs, {model} has a mean AUC of {digits(means[BASE])}."]
    sets = [row for row in means if row != BASE and not row.startswith(TUNED)]
    changes = {row: matrix.change(row, MEAN) for row in sets}
    if changes:
        parts.append(f"With other training sets, {_noise(changes)}")
    alone = {i: matrix.change(f"id {i}", i) for i in matrix.ids}
    if found := [f"{i} {_hedged(change)}" for i, change in alone.items() if change]:
        parts.append(
            f"Training on one ID alone changes the AUC of that ID: {'; '.join(found)}."
        )
    for row in matrix.rows:
        if tuned := matrix.forgetting(row):
            own, others = map(_hedged, tuned)
            parts.append(
                f"Fine-tuning on {row.removeprefix(TUNED)} changes its AUC by {own}, "
                f"and that of the others by {others}."
            )
    return " ".join(parts)


def about_tuning(tuned: Matrix, rows: Matrix) -> str:
    """The row picked on the validation split, and its result on the test split."""
    means = _means(tuned)
    if len(means) < 2:
        return _alone(means)
    picked = max(means, key=means.__getitem__)
    text = (
        f"On the validation split “{picked}” has the highest mean AUC, "
        f"{digits(means[picked])}"
    )
    if rows.base in means:
        text += f" (“{rows.base}”: {digits(means[rows.base])})"
    text += f". On the test split it has {digits(_means(rows)[picked])}"
    change = rows.change(picked, MEAN)
    if picked == rows.base:
        return f"{text}; the other rows are compared with it."
    if change is None:
        return f"{text}; there are no numbers of “{rows.base}” to compare with."
    noise = "beyond" if change.beyond_noise else "within"
    return f"{text}, {signed(change)} against “{rows.base}”: {noise} noise."


def _alone(means: dict[str, float]) -> str:
    for row, value in means.items():
        return f"“{row}” has a mean AUC of {digits(value)}; nothing to compare it with."
    return "No row has an AUC."


def _means(matrix: Matrix) -> dict[str, float]:
    """Mean AUC of the rows that have one."""
    found = {row: matrix.estimate(row, MEAN) for row in matrix.rows}
    return {row: estimate.mean for row, estimate in found.items() if estimate}


def _noise(changes: dict[str, Estimate | None]) -> str:
    """Changes beyond noise, and the number to expect by chance."""
    known = {row: change for row, change in changes.items() if change}
    beyond = {row: change for row, change in known.items() if change.beyond_noise}
    if not beyond:
        return f"none of {len(known)} rows differs from it beyond noise."
    listed = "; ".join(f"“{row}” {signed(change)}" for row, change in beyond.items())
    count = f"{len(beyond)} of {len(known)} rows"
    differ = "differs" if len(beyond) == 1 else "differ"
    text = f"{count} {differ} from it beyond noise: {listed}."
    if len(known) >= 10:
        chance = f"about {round(len(known) / 20)} of {len(known)} comparisons"
        text += f" At 95 %, {chance} would be marked by chance."
    return text


def _hedged(change: Estimate) -> str:
    return signed(change) + ("" if change.beyond_noise else ", within noise")
