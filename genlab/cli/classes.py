"""What `--class` means to a model: names or numbers of the classes that it was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from genlab.errors import UserError
from genlab.registry import nearest

if TYPE_CHECKING:
    from genlab.trainers import Trainer

ALL = "all"


def class_number(trainer: Trainer, text: str) -> int:
    """The class of a conditional model that `text` names: one of its class names, or a number.

    Raises:
        UserError: no such class, or a model without classes.
    """
    import torch

    trainer.check_labels(torch.zeros(1, dtype=torch.int64))  # a model without classes says so first
    names = trainer.data.class_names or ()
    if text in names:
        return names.index(text)
    if text.isdigit() and int(text) < trainer.label_count:
        return int(text)
    listed = f"0 to {trainer.label_count - 1}"
    if names and len(names) <= 12 and list(names) != [str(number) for number in range(len(names))]:
        listed = f"{', '.join(names)} or {listed}"
    guess = nearest(text, names)
    hint = f"; did you mean {guess!r}?" if guess and not text.isdigit() else ""
    raise UserError(f"--class: expected {listed}, got {text!r}{hint}")


def class_numbers(trainer: Trainer, texts: Sequence[str]) -> list[int]:
    """The classes that repeated `--class` options name, in that order; "all" is every class.

    Raises:
        UserError: as `class_number`, or a class named twice.
    """
    if ALL in texts and ALL not in (trainer.data.class_names or ()):
        if len(texts) > 1:
            raise UserError(f"--class: expected all alone, got it beside {', '.join(t for t in texts if t != ALL)}")
        class_number(trainer, "0")
        return list(range(trainer.label_count))
    numbers = [class_number(trainer, text) for text in texts]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"--class: expected each class once, got {', '.join(texts)}")
    return numbers


def class_name(trainer: Trainer, number: int) -> str:
    """What a class is called: its name where it has one, else its number."""
    return trainer.data.class_names[number] if trainer.data.class_names else str(number)
