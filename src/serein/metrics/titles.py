"""How each score is shown: its title, in per cent or not, and whether lower is better."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Metric:
    """What a reader needs to know about a score.

    Attributes:
        title: Its short name, for tables.
        meaning: Its full name; empty if the title is.
        is_per_cent: Whether it is shown in per cent; all scores are computed as fractions.
        is_error: Whether lower is better.
    """

    title: str
    meaning: str = ""
    is_per_cent: bool = False
    is_error: bool = False

    def shown(self, value: float) -> str:
        """Return a value as text.

        Example:
            >>> METRICS["ua"].shown(0.7184), METRICS["ccc"].shown(0.7184)
            ('71.8 %', '0.718')
        """
        return f"{100 * value:.1f} %" if self.is_per_cent else f"{value:.3f}"


METRICS = {
    "ua": Metric("UA", "unweighted accuracy", is_per_cent=True),
    "wa": Metric("WA", "weighted accuracy", is_per_cent=True),
    "macro_f1": Metric("macro-F1", "mean F1 over classes", is_per_cent=True),
    "ccc": Metric("CCC", "concordance correlation coefficient"),
    "pearson": Metric("Pearson", "Pearson's correlation coefficient"),
    "mae": Metric("MAE", "mean absolute error", is_error=True),
    "rmse": Metric("RMSE", "root mean square error", is_error=True),
    "wer": Metric("WER", "word error rate", is_per_cent=True, is_error=True),
    "word_accuracy": Metric("word accuracy", is_per_cent=True),
    "character_accuracy": Metric("character accuracy", is_per_cent=True),
    "js": Metric("Jensen-Shannon divergence", is_error=True),
    "js_similarity": Metric("Jensen-Shannon similarity"),
    "brier": Metric("Brier score", is_error=True),
    "cross_entropy": Metric("cross-entropy", is_error=True),
    "entropy_correlation": Metric("correlation of entropies"),
    "agreement_model": Metric("agreement with a held-out rater: the model"),
    "agreement_rater": Metric("agreement with a held-out rater: another rater"),
    "agreement_others": Metric("agreement with a held-out rater: the other raters' majority"),
    "one_more_rater": Metric("the model minus another rater"),
}


def metric_of(score: str) -> Metric:
    """Return the metric of a score, which may be of one of several numbers; an unknown name is its own title.

    Example:
        >>> metric_of("ccc valence").title, metric_of("own_score").title
        ('CCC valence', 'own score')
    """
    name, _, number = score.partition(" ")
    metric = METRICS.get(name) or Metric(name.replace("_", " "))
    return replace(metric, title=f"{metric.title} {number}") if number else metric
