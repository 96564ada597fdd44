"""Sentences from numbers: what a study shows, and no more."""

from mimii_jax.report.matrix import signed
from mimii_jax.report.tables import digits
from mimii_jax.results.matrix import AUC, BASE, TUNED, Matrix
from mimii_jax.results.metrics import Change
from mimii_jax.results.per_id import AVERAGE, POOLED


def about_rows(matrix: Matrix) -> str:
    """Which row has the most, and which differ from the base beyond noise."""
    means = _averages(matrix)
    if len(means) < 2:
        return _alone(means)
    best, worst = max(means, key=means.__getitem__), min(means, key=means.__getitem__)
    text = (
        f"The average AUC goes from {digits(means[worst])} ({worst}) to "
        f"{digits(means[best])} ({best}). "
    )
    if matrix.base not in means:
        return text
    changes = {row: matrix.change(row, AVERAGE) for row in means if row != matrix.base}
    return (
        f"{text}“{matrix.base}” has {digits(means[matrix.base])}; {_noise(changes)}"
    ).strip()


def about_matrix(matrix: Matrix) -> str:
    """What training on less than all costs, and what fine-tuning does."""
    means = _averages(matrix)
    if BASE not in means:
        return "No model was trained on all machine IDs."
    parts = [
        f"Trained on all IDs, {matrix.name.split(',')[0]} has an average AUC of "
        f"{digits(means[BASE])}."
    ]
    changes = {
        row: matrix.change(row, AVERAGE)
        for row in means
        if row != BASE and not row.startswith(TUNED)
    }
    if changes:
        parts.append(f"With other training sets, {_noise(changes)}")
    if own := _own_ids(matrix):
        parts.append(own)
    if tuned := _tuning(matrix):
        parts.append(tuned)
    return " ".join(parts)


def about_tuning(tuned: Matrix, rows: Matrix) -> str:
    """What was picked on the validation part, and what that is worth on the test part.

    Nothing is chosen by the numbers that are reported.
    """
    means = _averages(tuned)
    if len(means) < 2:
        return _alone(means)
    picked = max(means, key=means.__getitem__)
    text = (
        f"On the validation part “{picked}” has the highest average AUC, "
        f"{digits(means[picked])}"
    )
    if rows.base in means:
        text += f" (“{rows.base}”: {digits(means[rows.base])})"
    on_test = _averages(rows)
    text += f". On the test part it has {digits(on_test[picked])}"
    change = rows.change(picked, AVERAGE)
    if picked == rows.base:
        return f"{text}: it is the row that the others are compared with."
    if change is None:
        return f"{text}; “{rows.base}”, to compare it with, has no numbers."
    within = "beyond noise" if change.beyond_noise else "within noise"
    return f"{text}, {signed(change)} against “{rows.base}”: {within}."


def _alone(means: dict[str, float]) -> str:
    if not means:
        return "There is no row with an AUC."
    ((row, value),) = means.items()
    return f"“{row}” has an average AUC of {digits(value)}; nothing to compare it with."


def _averages(matrix: Matrix) -> dict[str, float]:
    """Average AUC of the rows that have one."""
    return {
        row: measured[AVERAGE].estimate(AUC).mean
        for row, measured in matrix.measured.items()
        if AVERAGE in measured
    }


def _noise(changes: dict[str, Change | None]) -> str:
    """Which changes are beyond noise, and how many might be by chance."""
    known = {row: change for row, change in changes.items() if change}
    beyond = {row: change for row, change in known.items() if change.beyond_noise}
    if not beyond:
        return f"of {len(known)} rows none differs from it beyond noise."
    listed = "; ".join(f"“{row}” {signed(change)}" for row, change in beyond.items())
    text = f"of {len(known)} rows {len(beyond)} differ from it beyond noise: {listed}."
    if len(beyond) == 1:
        text = text.replace("1 differ ", "1 differs ")
    if len(known) >= 10:
        text += (
            f" Of {len(known)} comparisons at 95 %, up to {round(len(known) / 20)} "
            "would be marked by chance."
        )
    return text


def _own_ids(matrix: Matrix) -> str:
    """What training on one ID alone does to that ID, against training on all."""
    found = []
    for column in matrix.columns:
        row = f"id {column}"
        if column in (AVERAGE, POOLED) or row not in matrix.measured:
            continue
        if change := matrix.change(row, column):
            within = "" if change.beyond_noise else ", within noise"
            found.append(f"{column} {signed(change)}{within}")
    if not found:
        return ""
    return (
        f"Trained on one ID alone, the AUC of that ID changes by: {'; '.join(found)}."
    )


def _tuning(matrix: Matrix) -> str:
    """What fine-tuning on one ID does there and elsewhere."""
    found = []
    for row in matrix.rows:
        if changes := matrix.forgetting(row):
            own, others = (
                signed(c) + ("" if c.beyond_noise else ", within noise")
                for c in changes
            )
            found.append(
                f"Fine-tuning on {row.removeprefix(TUNED)} changes its AUC by {own}, "
                f"and that of the others by {others}."
            )
    return " ".join(found)
