"""What a client of the service may send and what it gets: the shapes of requests and answers, how bytes become the former, and the errors between.

It knows no model and no server. Shapes stand here once, and say themselves to clients in the OpenAPI description.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,  # pydantic's wish below Python 3.12
)

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError, with_config
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from typing_extensions import TypedDict

from capdec.errors import CapdecError, one_line

BEAMS, CAPTIONS, MAX_TOKENS, NEIGHBOURS = 16, 16, 100, 50
"""The most that a request may ask for."""
FIELD_BYTES = 65_536
"""Of a form's field that is no file."""
VALUES = 16_384
"""Numbers and whatever else stands between commas in an input, at most: as objects they take forty times their bytes."""


class Refusal(CapdecError):
    """An answer that is an error: its status, a code for programs, a message for people, and what headers say beside."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.code, self.headers = status, code, dict(headers or {})

    def body(self) -> dict[str, Any]:
        return problem(self.code, str(self))


def problem(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


# --- requests


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)  # JSON knows no integers: 5.0 is 5
Number = Annotated[float, Field(allow_inf_nan=False)]
STRICT = ConfigDict(extra="forbid", strict=True)


class _Search(TypedDict, total=False):
    strategy: Literal["beam", "greedy", "nucleus"]
    beams: Annotated[int, Field(ge=1, le=BEAMS), WHOLE]
    captions: Annotated[int, Field(ge=1, le=CAPTIONS, description="The best and its alternatives."), WHOLE]
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS), WHOLE]
    min_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS), WHOLE]
    length_penalty: Annotated[Number, Field(ge=-10, le=10)]
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=MAX_TOKENS), WHOLE]
    top_p: Annotated[Number, Field(gt=0, le=1)]
    temperature: Annotated[Number, Field(ge=0.01, le=100)]
    seed: Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE]
    rerank: Literal["none", "clip", "consensus", "neighbours"]
    candidates: Annotated[int, Field(ge=0, le=CAPTIONS, description="What rerank chooses among."), WHOLE]
    score_weight: Annotated[Number, Field(ge=-1000, le=1000)]
    style: Annotated[str, Field(max_length=200, description="One of the captioner's styles.")]
    length: Annotated[Literal["", "short", "medium", "long"], Field(description="Where the captioner has_lengths.")]


@with_config(STRICT)
class Search(_Search, total=False):
    """How captions are searched for; what is left out is the captioner's own."""

    neighbours: Annotated[int, Field(ge=1, le=NEIGHBOURS, description="How many captions of the memory rerank 'neighbours' asks."), WHOLE]


Model = Annotated[str, Field(max_length=200, description="One of /v1/models; the first if left out.")]
Told = Annotated[int, Field(ge=0, le=NEIGHBOURS, description="How many of the memory's nearest captions to tell."), WHOLE]
Deadline = Annotated[Number, Field(ge=0.1, description="Seconds, up to the server's own limit.")]


@with_config(ConfigDict(extra="forbid"))
class Form(_Search, total=False):
    """What a form's fields say beside its photos."""

    model: Model
    neighbours: Told
    deadline: Deadline


@with_config(STRICT)
class PhotoInput(TypedDict):
    image: Annotated[str, Field(description="The file in base64; a data: URL will do.", json_schema_extra={"format": "byte"})]
    name: NotRequired[str]


@with_config(STRICT)
class AddressInput(TypedDict):
    url: Annotated[str, Field(max_length=4096, description="http or https, where /v1/models says that addresses are fetched.")]
    name: NotRequired[str]


@with_config(STRICT)
class EmbeddingInput(TypedDict):
    embedding: Annotated[list[float], Field(description="As wide as the captioner's dim, of any length but 0.")]
    name: NotRequired[str]


def _kind(value: Any) -> str | None:
    return next((kind for kind in ("image", "url", "embedding") if kind in value), None) if isinstance(value, dict) else None


Input = Annotated[
    Annotated[PhotoInput, Tag("image")] | Annotated[AddressInput, Tag("url")] | Annotated[EmbeddingInput, Tag("embedding")],
    Discriminator(_kind, custom_error_type="kind", custom_error_message="is an object with one of image, url, embedding"),
]


@with_config(STRICT)
class CaptionRequest(TypedDict):
    """Photos, addresses or embeddings to be captioned."""

    model: NotRequired[Model]
    inputs: Annotated[list[Input], Field(min_length=1)]
    decoding: NotRequired[Search]
    neighbours: NotRequired[Told]
    deadline: NotRequired[Deadline]


_JSON, _FORM = TypeAdapter(CaptionRequest), TypeAdapter(Form)


@dataclass(frozen=True)
class Asked:
    """A request, whichever way it came. An input is `image` (bytes, or base64), `url` or `embedding`, and perhaps a `name`."""

    inputs: Sequence[Mapping[str, Any]]
    model: str | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)
    neighbours: int = 0
    deadline: float | None = None


def from_json(body: bytes, inputs: int) -> Asked:
    """Raises Refusal: 400 for what is no JSON, or nested beyond any request; 413 for more values than `inputs` can have; 422 for another shape."""
    if body.count(b",") > VALUES * inputs:
        raise Refusal(413, "too_large", f"The body has more values than {inputs} inputs can. Send several requests.")
    try:
        return Asked(**_JSON.validate_json(body))
    except ValidationError as error:
        if any(one["type"] == "json_invalid" for one in error.errors(include_url=False, include_input=False)):
            said = error.errors(include_url=False, include_input=False)[0]["ctx"]["error"]
            raise Refusal(400, "bad_request", f"The body is not JSON that can be read: {said}. Send an object with inputs, as /docs says.") from None
        raise _misshapen(error) from None


async def from_form(body: bytes, content_type: str, inputs: int) -> Asked:
    """Raises Refusal: 400 for what is no whole form, 415 for one not in UTF-8, 422 for other fields than there are, or more photos than `inputs`."""

    _, told = parse_options_header(content_type)
    if told.get(b"charset", b"utf-8").lower() not in (b"utf-8", b"utf8"):  # some that Python knows make of bytes what is no text
        raise Refusal(415, "unsupported_media_type", "The form names an encoding other than UTF-8. Send its text in UTF-8.")
    if b"boundary" in told and b"--" + told[b"boundary"] + b"--" not in body:
        raise Refusal(400, "bad_request", "The form is without its end, the boundary between two --. Send all of it.")

    async def whole() -> Any:
        yield body

    try:
        form = await _Parser(Headers({"content-type": content_type}), whole(), max_files=inputs, max_fields=64, max_part_size=FIELD_BYTES).parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise too_many(inputs) from None
        raise Refusal(400, "bad_request", f"The body is not multipart/form-data that can be read: {error.message} See /docs.") from None
    fields: dict[str, str] = {}
    photos: list[dict[str, Any]] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) and name == "image":
            photos.append({"image": await value.read(), "name": value.filename})
        elif isinstance(value, UploadFile) or name == "image":
            raise Refusal(
                422, "bad_setting", f"The field {one_line(name, 100)!r} is {'a file' if name != 'image' else 'text'}: photos are files called image."
            )
        elif name in fields:
            raise Refusal(422, "bad_setting", f"The field {one_line(name, 100)!r} came twice. Send it once.")
        else:
            fields[name] = value
    try:
        given = _FORM.validate_python(fields)
    except ValidationError as error:
        raise _misshapen(error) from None
    if not photos:
        raise Refusal(422, "bad_setting", "No photo came. Send at least one file in a field called image.")
    decoding = {key: value for key, value in given.items() if key not in ("model", "neighbours", "deadline")}
    return Asked(photos, given.get("model"), decoding, given.get("neighbours", 0), given.get("deadline"))


class _Parser(MultiPartParser):
    spool_max_size = 2**40  # bytes: the body is in memory, and its parts stay there


def too_many(inputs: int) -> Refusal:
    return Refusal(422, "too_many_inputs", f"More than {inputs} inputs came, the most that a request may have. Send several requests.")


def _misshapen(error: ValidationError) -> Refusal:
    """In the words of the first faults, without what came: that can be long."""
    faults = error.errors(include_url=False, include_input=False)
    said = "; ".join(f"{one_line('.'.join(map(str, _place(fault['loc']))) or 'the body', 100)}: {fault['msg']}" for fault in faults[:3])
    kinds = {part for fault in faults for part in fault["loc"] if part in ("image", "url", "embedding")}
    code = f"bad_{kinds.pop()}" if len(kinds) == 1 else "bad_setting"
    return Refusal(422, code, f"{said}{' ...' if len(faults) > 3 else ''}. See /docs for what a request may hold.")


def _place(location: Sequence[int | str]) -> Sequence[int | str]:
    """Without the tag of an input's kind, which stands behind its number."""
    return (*location[:2], *location[3:]) if location[:1] == ("inputs",) else location


def name_of(given: Mapping[str, Any], place: int) -> str:
    """What a result is called: as its input was, or by its place, from 1."""
    return one_line(given.get("name") or given.get("url") or "") or f"input {place + 1}"


def from_base64(text: str) -> bytes:
    """With or without what a data: URL begins with. Raises Refusal."""
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise Refusal(422, "bad_image", "This data: URL is not in base64. It begins with data:image/jpeg;base64, or the like.")
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(422, "bad_image", f"The image is not base64 ({error}). Send the file's bytes in base64, padded by =.") from None


def as_vector(values: Sequence[float], dim: int) -> Float[np.ndarray, "D"]:
    """An embedding in float32. Raises Refusal for another width than `dim`, and for what has no direction."""
    if len(values) != dim:
        raise Refusal(
            422, "bad_embedding", f"The embedding has {len(values)} numbers, and this captioner's have {dim}. Was it made by another model?"
        )
    with np.errstate(over="ignore"):
        vector = np.asarray(values, dtype=np.float64).astype(np.float32)
        length = float(np.linalg.norm(vector))
    if not 1e-12 < length < np.inf:
        raise Refusal(422, "bad_embedding", "The embedding is zero or not finite in float32. Leave it out, or embed the photo again.")
    return vector


# --- answers


class Error(BaseModel):
    code: str
    message: str


class Problem(BaseModel):
    """Every answer that is an error."""

    error: Error


class Alternative(BaseModel):
    caption: str
    score: float


class Neighbour(BaseModel):
    caption: str
    cosine: float


class Result(BaseModel):
    """Of one input: a caption, or an error."""

    name: str
    caption: str | None = None
    score: Annotated[float | None, Field(description="Log-probability in nats over tokens ** length_penalty.")] = None
    confidence: Annotated[float | None, Field(description="Probability that everything named is there, of a captioner that was calibrated.")] = None
    unsure: Annotated[bool | None, Field(description="Whether that is too little.")] = None
    alternatives: list[Alternative] | None = None
    neighbours: list[Neighbour] | None = None
    error: Error | None = None


class Captions(BaseModel):
    """One result an input, in order."""

    model: str
    results: list[Result]


class NoCaptions(Captions):
    """Where no input could be captioned."""

    error: Error


class Limits(BaseModel):
    """What one request may have."""

    body_bytes: int
    image_pixels: int
    inputs: int
    deadline_s: float
    beams: int = BEAMS
    captions: int = CAPTIONS
    max_tokens: int = MAX_TOKENS
    neighbours: int = NEIGHBOURS


class ServedModel(BaseModel):
    name: str
    description: str
    supervision: str
    dim: int
    fingerprint: str
    has_neighbours: bool
    styles: list[str]
    has_lengths: bool
    decoding: dict[str, Any]


class Models(BaseModel):
    models: list[ServedModel]
    limits: Limits
    urls: bool


class Status(BaseModel):
    status: str


def request_schemas(models: list[str], inputs: int, deadline: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """An OpenAPI request body, and the components that it refers to."""
    schema = _JSON.json_schema(ref_template="#/components/schemas/{model}")
    components = schema.pop("$defs")
    schema["properties"]["inputs"]["maxItems"] = inputs
    form = _FORM.json_schema(ref_template="#/components/schemas/{model}")
    photos = {"type": "array", "items": {"type": "string", "format": "binary"}, "minItems": 1, "maxItems": inputs, "description": "The photos."}
    form["properties"] = {"image": photos, **form["properties"]}
    form["required"] = ["image"]
    for one in (schema, form):
        one["properties"]["deadline"]["maximum"] = deadline
        one["properties"]["model"]["enum"] = models
    components |= {"CaptionRequest": schema, "CaptionForm": form}
    content = {
        "application/json": {"schema": {"$ref": "#/components/schemas/CaptionRequest"}},
        "multipart/form-data": {"schema": {"$ref": "#/components/schemas/CaptionForm"}},
    }
    return {"required": True, "content": content}, components
