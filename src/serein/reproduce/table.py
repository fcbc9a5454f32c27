"""A paper's table as data: its rows, the recipe changes that define each row, and the published scores.

paper: diatlova2024
table: 3
base: ../recipe.yaml
rows:
  - name: std
    set: {tasks.emotion.pooling: std}
    published: {macro_f1: 31}

`extends: other.yaml` inherits all keys that are not set here from another table of the same folder.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from serein.choices import Name
from serein.errors import RecipeError, expected_one_of
from serein.recipe import parse_yaml

PerCent = Annotated[float, Field(ge=0.0, le=100.0)]
Metric = Literal["macro_f1", "ua", "wa"]


class _Part(BaseModel):
    """Base class of every part of a table file; it is frozen and refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Published(_Part):
    """The paper's numbers for one row, in per cent; `None` if it reports none.

    Attributes:
        f1: Class -> F1.
        values: Column of a further table (`measures`) -> number, in the paper's own unit.
    """

    macro_f1: PerCent | None = None
    ua: PerCent | None = None
    wa: PerCent | None = None
    f1: dict[str, PerCent] = {}
    values: dict[str, float] = {}


class Row(_Part):
    """One row: a configuration and its published numbers.

    Attributes:
        name: Name that `--rows` selects it by.
        label: Label as printed in the paper; `None` uses the name.
        recipe: Recipe file of this row instead of the table's base, relative to the table file.
        changes: `set:`, dotted key -> value; the changes to the base that define this row.
        configuration: Column -> the paper's entry, for columns that are not scores.
        reference: Compare the other rows with this one, in pairs; by default, the first row is the reference.
        against: Name of another row to compare this one with.
        knn: Interpolate with the nearest training clips (wang2023, stage S3); k and the kNN weight are chosen on `dev`
            or, with a mark, on the test set itself (`oracle`). Training is the same as for the row without it.
        ensemble: The ensemble of the models of all other rows; it trains nothing.
        quoted: Work of others that the paper quotes; it trains nothing and has only published scores.
        targets_only: Measure only the targets that its recipe derives from the labels (`target-neighbours`); it trains
            nothing.
    """

    name: Name
    label: str | None = None
    recipe: str | None = None
    changes: dict[str, Any] = Field(default={}, alias="set")
    published: Published = Published()
    configuration: dict[str, str | int | float] = {}
    reference: bool = False
    against: str | None = None
    knn: Literal["dev", "oracle"] | None = None
    ensemble: bool = False
    quoted: bool = False
    targets_only: bool = False

    @property
    def title(self) -> str:
        """The label, or else the name."""
        return self.label or self.name

    @property
    def is_trained(self) -> bool:
        """Whether the row has models of its own: it is not an ensemble, quoted or `targets_only`."""
        return not (self.ensemble or self.quoted or self.targets_only)


class PublishedNeighbours(_Part):
    """Words that the paper names as nearest to a word vector.

    Attributes:
        of: The model that predicted it, or the label set of the target.
        label: The class, or the words of the target.
        words: The words, nearest first.
    """

    of: str
    label: str
    words: Annotated[tuple[str, ...], Field(min_length=1)]


class Picture(_Part):
    """A figure of the paper, drawn from the rows.

    Attributes:
        name: Name in `serein.reproduce.figures.PICTURES`.
        x: For a sweep: the column of `configuration` on the x axis.
        lines: For a sweep: the column that distinguishes several lines.
        task: For embeddings: the task whose embedding is drawn; `None` draws the input of the main task's output layer.
        colour_by: For embeddings: `emotion`, `prediction` or `speaker`, one panel each.
        splits: For embeddings: the splits whose clips are drawn, one panel each.
    """

    name: Literal["confusion", "embeddings", "sweep"]
    x: str | None = None
    lines: str | None = None
    task: str | None = None
    colour_by: Annotated[tuple[Literal["emotion", "prediction", "speaker"], ...], Field(min_length=1)] = ("emotion",)
    splits: Annotated[tuple[Literal["train", "test"], ...], Field(min_length=1)] = ("test",)

    @property
    def is_stored(self) -> bool:
        """Whether run folders contain all data of the figure, so no model has to be run."""
        return self.task is None and self.colour_by == ("emotion",) and self.splits == ("test",)

    @model_validator(mode="after")
    def _sweep_has_axis(self) -> Picture:
        if (self.name == "sweep") != (self.x is not None):
            raise ValueError("'x' is required for a 'sweep', and allowed only there")
        if self.lines is not None and self.name != "sweep":
            raise ValueError("'lines' is allowed only for a 'sweep'")
        if not self.is_stored and self.name != "embeddings":
            raise ValueError("'task', 'colour_by' and 'splits' are allowed only for 'embeddings'")
        return self


Measure = Literal[
    "cosine", "top", "target-neighbours", "prediction-neighbours", "verification", "tasks", "conflicts", "time"
]


class Table(_Part):
    """A table file.

    Attributes:
        path: The file itself.
        table: Number or name in the paper.
        rows_are: Heading of the rows.
        metric: The score that is compared.
        corpus: The paper's corpus.
        measured_on: The corpus of our scores, if it is not the paper's.
        published_on: Split of the corpus that the published numbers are from.
        base: Recipe that the rows change, relative to the table file.
        measures: Further tables: `time` for one clip; `verification` for rows whose task is `speaker`; `tasks` and
            `conflicts` for rows with several tasks; those of `serein.reproduce.extras` for rows of word vectors.
        picture: A figure of the table; `None` for no figure.
        neighbours: The nearest words that the paper prints, shown next to ours.
    """

    path: Path
    paper: Name
    table: int | Name
    caption: str
    rows_are: str = "row"
    metric: Metric = "macro_f1"
    corpus: str
    measured_on: str | None = None
    published_on: Literal["dev", "test"]
    base: str | None = None
    measures: tuple[Measure, ...] = ()
    picture: Picture | None = None
    neighbours: tuple[PublishedNeighbours, ...] = ()
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]
    _is_by_another: bool = PrivateAttr(default=False)  # score than the file's own

    @model_validator(mode="after")
    def _rows_fit(self) -> Table:
        repeated = [name for name, count in Counter(row.name for row in self.rows).items() if count > 1]
        if repeated:
            raise ValueError(f"two rows share a name: {', '.join(repeated)}")
        if sum(row.reference for row in self.rows) > 1:
            raise ValueError("two rows are marked 'reference'")
        names = {row.name for row in self.rows}
        for row in self.rows:
            if row.against is not None and row.against not in names - {row.name}:
                raise ValueError(f"row '{row.name}' is compared with '{row.against}', which is not another row")
            if self.picture and self.picture.x and self.picture.x not in row.configuration:
                raise ValueError(f"row '{row.name}' has no '{self.picture.x}' in its configuration to draw it at")
            if row.ensemble and (row.recipe or row.changes or row.reference or row.knn):
                raise ValueError(
                    f"row '{row.name}' is the ensemble of the others: it cannot have recipe, set, knn or reference"
                )
            if row.quoted and (row.recipe or row.changes or row.reference or row.knn or row.ensemble):
                raise ValueError(f"row '{row.name}' is quoted: it cannot have recipe, set, knn, ensemble or reference")
            if row.targets_only and (row.reference or row.knn or row.ensemble or row.quoted):
                raise ValueError(f"row '{row.name}' is targets_only: it cannot have reference, knn, ensemble or quoted")
            if (row.is_trained or row.targets_only) and row.recipe is None and self.base is None:
                raise ValueError(f"row '{row.name}' has no recipe, and the table has no base")
        if not self.is_trained and not any(row.targets_only for row in self.rows):
            raise ValueError("no row trains anything")
        if sum(row.ensemble for row in self.rows) > 1:
            raise ValueError("two rows are the ensemble of the others")
        return self

    @property
    def name(self) -> str:
        """Paper and table as used in file names, and the score if it is not the table's own."""
        name = f"{self.paper}-{f'table{self.table}' if isinstance(self.table, int) else self.table}"
        return f"{name}-{self.metric}" if self._is_by_another else name

    def by(self, metric: Metric) -> Table:
        """Return the same table, compared by another score."""
        if metric == self.metric:
            return self
        table = self.model_copy(update={"metric": metric})
        table._is_by_another = True
        return table

    @property
    def title(self) -> str:
        """Its title in the paper: "Table 3", "Figure 4"."""
        if isinstance(self.table, str) and (figure := re.fullmatch(r"figure(\d+)", self.table)):
            return f"Figure {figure[1]}"
        return f"Table {self.table}"

    @property
    def is_trained(self) -> bool:
        """Whether any row has models."""
        return any(row.is_trained for row in self.rows)

    @property
    def reference(self) -> Row:
        """The row that the others are compared with."""
        candidates = [row for row in self.rows if row.is_trained] or self.rows
        return next((row for row in candidates if row.reference), candidates[0])

    def compared_with(self, row: Row) -> Row:
        """Return the row that this one is compared with."""
        return next((other for other in self.rows if other.name == row.against), self.reference)

    def picked(self, names: Sequence[str] | None) -> list[Row]:
        """Return the rows with these names in the table's order, or all rows.

        Raises:
            RecipeError: There is no such row; the error lists the existing ones.
        """
        known = [row.name for row in self.rows]
        for name in names or ():
            if name not in known:
                raise RecipeError(expected_one_of(name, known, kind="row"), where=self.path, remedy="Check --rows.")
        return [row for row in self.rows if names is None or row.name in names]


def load(name: str) -> Table:
    """Read a table by its name, `paper/table`, or by the path of its file.

    Raises:
        RecipeError: There is no such table, or its file is invalid; the error lists the tables or names the key.
    """
    return read(find(name))


def find(name: str) -> Path:
    """Return the file of a table, given the path of a .yaml file, or `paper/table` in the first place that has it.

    Raises:
        RecipeError: No place has it; the error lists the existing tables.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    tables = known_tables()
    if name not in tables:
        remedy = "Name one of them, or the path of a table file (.yaml)."
        raise RecipeError(expected_one_of(name, sorted(tables) or ["(none found)"], kind="table"), remedy=remedy)
    return tables[name]


def known_tables() -> dict[str, Path]:
    """Return `paper/table` -> file for all tables in the working directory, the source checkout and the package."""
    found: dict[str, Path] = {}
    package = Path(str(resources.files("serein")))
    for folder in (Path("recipes"), package.parents[1] / "recipes", package / "recipes"):
        for path in sorted(folder.glob("*/tables/*.yaml")):
            found.setdefault(f"{path.parts[-3]}/{path.stem}", path)
    return found


def _values_of(path: Path, extending: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the keys of a table file, merged over those of the table that it extends."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise RecipeError("no such table file", where=path, remedy="Name a .yaml file, or paper/table.") from None
    except UnicodeDecodeError:
        raise RecipeError("is not a text file", where=path, remedy="Name a .yaml table file.") from None
    values = parse_yaml(text, where=str(path))
    if not isinstance(values, dict):
        raise RecipeError("contains no keys", where=path, remedy="Write a YAML mapping: paper, table, rows, ...")
    other = values.pop("extends", None)
    if other is None:
        return values
    if (parent := path.parent / str(other)) in (*extending, path):
        raise RecipeError("extends itself", where=path, remedy="Name another table file of the same folder.")
    return _values_of(parent, (*extending, path)) | values


def read(path: Path) -> Table:
    """Read a table file.

    Raises:
        RecipeError: The file, or one that it extends, is missing, not YAML, or has an unknown or invalid key.
    """
    values = _values_of(path)
    try:
        return Table.model_validate(values | {"path": path})
    except ValidationError as error:
        first = error.errors()[0]
        location = [str(part) for part in first["loc"]]
        rows = values.get("rows")
        if len(location) > 1 and isinstance(rows, list) and isinstance(position := first["loc"][1], int):
            row = rows[position]  # named where the file names it, else by its position
            location[1] = str(row.get("name", position)) if isinstance(row, dict) else str(position)
        place = f"{path}: {'.'.join(location)}" if location else str(path)
        if first["type"] == "extra_forbidden":
            kind = next((kind for name, kind in (("rows", Row), ("picture", Picture)) if name in location), Table)
            keys = sorted({field.alias or key for key, field in kind.model_fields.items()} - {"path"})
            what, remedy = f"unknown key '{first['loc'][-1]}'", f"Known keys: {', '.join(keys)}."
        else:
            message = first["msg"].removeprefix("Value error, ")
            what, remedy = message[0].lower() + message[1:], "See recipes/diatlova2024/tables."
        raise RecipeError(what, where=place, remedy=remedy) from None
