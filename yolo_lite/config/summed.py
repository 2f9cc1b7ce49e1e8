"""Several names of one dict in YAML, added up: ``{bce: 1, dice: 0.5}``."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationInfo
from pydantic.functional_serializers import model_serializer
from pydantic.functional_validators import AfterValidator, model_validator

from yolo_lite.config.bounds import LARGEST, SHOWN
from yolo_lite.config.seams import Choice, Section, chosen_from


class Summed(Section):
    """Names on one of the dicts, what goes with each, and the gains with which the things that they name are summed."""

    choices: tuple[Choice, ...]
    gains: tuple[float, ...] = (1.0,)

    def __str__(self) -> str:
        return str(self.plain())

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """``"bce"``, ``{"bce": 1, "dice": 0.5}`` or ``{"bce": 1, "tversky": {"alpha": 0.3, "gain": 0.5}}``."""
        if isinstance(value, str):
            return {"choices": (Choice(name=value),)}
        if isinstance(value, Summed) or (isinstance(value, dict) and isinstance(value.get("choices"), tuple)):
            return value
        if not isinstance(value, dict) or not value or not all(isinstance(name, str) for name in value):
            expected = (
                "a name, names with gains as in {bce: 1, dice: 1}, or with parameters as in {tversky: {alpha: 0.3}}"
            )
            raise ValueError(f"expected {expected}, found {value!r:.{SHOWN}}")
        choices, gains = list[Choice](), list[float]()
        for name, given in value.items():
            parameters = dict(given) if isinstance(given, dict) else {} if given is None else {"gain": given}
            gain = parameters.pop("gain", 1.0)
            if isinstance(gain, bool) or not isinstance(gain, (int, float)) or not 0 < gain < LARGEST:
                raise ValueError(f"{name}: expected a gain above 0, or parameters, found {gain!r:.{SHOWN}}")
            choices.append(Choice.model_validate({name: parameters}))
            gains.append(float(gain))
        return {"choices": tuple(choices), "gains": tuple(gains)}

    @model_serializer
    def plain(self) -> str | dict[str, Any]:
        """As YAML has it."""
        if self.gains == (1.0,) and not self.choices[0].parameters:
            return self.choices[0].name
        return {
            choice.name: choice.parameters | ({} if gain == 1 else {"gain": gain}) if choice.parameters else gain
            for choice, gain in zip(self.choices, self.gains, strict=True)
        }


def summed_from(dict_name: str) -> AfterValidator:
    """Annotate a key whose ``Summed`` names entries of a dict."""
    check: Any = chosen_from(dict_name).func

    def check_all(value: Summed, info: ValidationInfo) -> Summed:
        return value.model_copy(update={"choices": tuple(check(choice, info) for choice in value.choices)})

    return AfterValidator(check_all)
