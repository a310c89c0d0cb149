"""The authors' files, at tiny size: what our captioner makes of them is what the original's forward pass makes, restated here plainly."""

import json
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from capdec import parts
from capdec.captioner import Captioner
from capdec.checkpoint import write_tensors
from capdec.cli import main
from capdec.corpus import embed, open_dataset, read_pairs
from capdec.errors import DataError, MismatchError
from capdec.import_checkpoint import import_checkpoint
from capdec.protocols import Condition, Decoding
from capdec.tokens import train_bpe

DIM, WIDTH, PREFIX, CLIP, HEADS = 16, 32, 3, 2, 2
CAPTION = "a man rides a horse"


@pytest.fixture
def language_model(tmp_path):
    torch.manual_seed(0)
    bpe = train_bpe(["a man rides a horse .", "two dogs run."] * 4, 300, ["<|endoftext|>"])
    bpe.pre_tokenizer = ByteLevel(add_prefix_space=False)  # as GPT-2's: a period after a word is another token than one after a space
    config = GPT2Config(vocab_size=bpe.get_vocab_size(), n_embd=WIDTH, n_layer=2, n_head=2, n_positions=128, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>").save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def linear(name, out, inward, bias=True):
    found = {f"{name}.weight": torch.randn(out, inward) * 0.3}
    return found | ({f"{name}.bias": torch.randn(out) * 0.1} if bias else {})


@pytest.fixture
def released(language_model):
    """A state dict as training wrote it, with the masks of an old version of transformers."""

    def make(mapper):
        torch.manual_seed(0)
        if mapper == "mlp":
            state = linear("model.0", PREFIX * WIDTH // 2, DIM) | linear("model.2", PREFIX * WIDTH, PREFIX * WIDTH // 2)
        else:
            state = linear("linear", CLIP * WIDTH, DIM) | {"prefix_const": torch.randn(PREFIX, WIDTH)}
            for layer in range(2):
                name = f"transformer.layers.{layer}"
                state |= linear(f"{name}.attn.to_queries", WIDTH, WIDTH, False) | linear(f"{name}.attn.to_keys_values", 2 * WIDTH, WIDTH, False)
                state |= linear(f"{name}.attn.project", WIDTH, WIDTH)
                state |= linear(f"{name}.mlp.fc1", 2 * WIDTH, WIDTH) | linear(f"{name}.mlp.fc2", WIDTH, 2 * WIDTH)
                for norm in ("norm1", "norm2"):
                    state |= {f"{name}.{norm}.weight": torch.rand(WIDTH) + 0.5, f"{name}.{norm}.bias": torch.randn(WIDTH) * 0.1}
        gpt = GPT2LMHeadModel.from_pretrained(language_model).state_dict()
        state = {f"clip_project.{key}": value for key, value in state.items()} | {f"gpt.{key}": value for key, value in gpt.items()}
        return state | {"gpt.transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8), "gpt.transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}

    return make


def mapped(state, embeddings):
    """The original mapper, restated: of pre-norm layers without biases in queries, keys and values, what stands at the constants."""
    get = {key.removeprefix("clip_project."): value for key, value in state.items()}.__getitem__
    if "clip_project.model.0.weight" in state:
        hidden = torch.tanh(embeddings @ get("model.0.weight").T + get("model.0.bias"))
        return (hidden @ get("model.2.weight").T + get("model.2.bias")).view(-1, PREFIX, WIDTH)
    x = (embeddings @ get("linear.weight").T + get("linear.bias")).view(-1, CLIP, WIDTH)
    x = torch.cat([x, get("prefix_const").expand(len(x), -1, -1)], 1)
    for layer in range(2):
        name = f"transformer.layers.{layer}"
        normed = F.layer_norm(x, (WIDTH,), get(f"{name}.norm1.weight"), get(f"{name}.norm1.bias"))
        queries = (normed @ get(f"{name}.attn.to_queries.weight").T).view(len(x), -1, HEADS, WIDTH // HEADS)
        keys, values = (normed @ get(f"{name}.attn.to_keys_values.weight").T).view(len(x), -1, 2, HEADS, WIDTH // HEADS).unbind(2)
        attention = (torch.einsum("bnhd,bmhd->bnmh", queries, keys) * (WIDTH // HEADS) ** -0.5).softmax(2)
        mixed = torch.einsum("bnmh,bmhd->bnhd", attention, values).reshape(x.shape)
        x = x + mixed @ get(f"{name}.attn.project.weight").T + get(f"{name}.attn.project.bias")
        normed = F.layer_norm(x, (WIDTH,), get(f"{name}.norm2.weight"), get(f"{name}.norm2.bias"))
        hidden = F.relu(normed @ get(f"{name}.mlp.fc1.weight").T + get(f"{name}.mlp.fc1.bias"))
        x = x + hidden @ get(f"{name}.mlp.fc2.weight").T + get(f"{name}.mlp.fc2.bias")
    return x[:, CLIP:]


@torch.no_grad()
def original(state, language_model, embeddings, tokens):
    """Summed log-probability of the tokens after the prefix."""
    gpt = GPT2LMHeadModel.from_pretrained(language_model).eval()
    words = gpt.transformer.wte(tokens).expand(len(embeddings), -1, -1)
    logits = gpt(inputs_embeds=torch.cat([mapped(state, embeddings), words], 1)).logits[:, PREFIX - 1 : -1]
    return logits.log_softmax(-1).gather(2, tokens.expand(len(embeddings), -1).unsqueeze(2)).sum((1, 2))


@pytest.mark.parametrize("kind", ["clipcap", "capdec"])
@pytest.mark.parametrize("mapper", ["mlp", "transformer"])
def test_a_released_file_says_what_its_makers_code_says(tmp_path, released, language_model, tiny_backbone, kind, mapper):
    state = released(mapper)
    torch.save(state, tmp_path / "weights.pt")
    made = import_checkpoint(
        tmp_path / "weights.pt", tmp_path / "out", kind=kind, backbone=tiny_backbone, language_model=str(language_model), mapper_heads=HEADS
    )
    loaded = Captioner.load(tmp_path / "out")
    embeddings = torch.randn(4, DIM) * 3
    tokens = torch.tensor(loaded.decoder.tokenizer(f"{CAPTION}.")["input_ids"])
    for captioner in (made, loaded):
        for text in (CAPTION, f"{CAPTION}.", f"{CAPTION} ."):
            with torch.no_grad():
                found = captioner.decoder.log_prob(Condition.of(embeddings), [text] * 4).total
            torch.testing.assert_close(found, original(state, language_model, embeddings, tokens), atol=1e-4, rtol=1e-4)
    captions = loaded.caption_embeddings(embeddings, Decoding("greedy", max_tokens=40))
    assert all(caption.text.endswith(".") == (len(caption.tokens) < 40) for caption in captions), "what was cut off has no period"
    lengths = [[c.text for c in loaded.caption_embeddings(embeddings * scale, Decoding("greedy", max_tokens=12))] for scale in (1, 0.02)]
    assert (lengths[0] == lengths[1]) == (kind == "capdec"), "ClipCap reads embeddings at their own length, CapDec at unit length"
    assert loaded.supervision.words() == ("text + pairs" if kind == "clipcap" else "text only")


@pytest.fixture
def clip_tokenizer(tmp_path):
    """With the begin and end of CLIP's."""
    bpe = train_bpe(["a man rides a horse .", "two dogs run."] * 4, 300, ["<|startoftext|>", "<|endoftext|>"])
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<|startoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    made.save_pretrained(tmp_path / "tokens")
    return tmp_path / "tokens"


def decap_of(width, vocabulary):
    torch.manual_seed(0)
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_embd=width, n_layer=3, n_head=4, n_positions=64))
    state = {f"decoder.{key}": value * 3 for key, value in gpt.state_dict().items()}
    return state | {f"clip_project.{key}": value for key, value in linear("model.0", width, DIM).items()}


@pytest.mark.parametrize("with_memory", [False, True])
def test_decap_says_what_its_makers_code_says(tmp_path, language_model, clip_tokenizer, tiny_backbone, captions_file, with_memory):
    """[linear of the projected embedding, begin, words, end], greedily, restated with GPT-2 itself."""
    state = decap_of(WIDTH, 300)  # more than there are tokens, as DeCap's 50,257
    torch.save(state, tmp_path / "weights.pt")
    plan = {"kind": "decap", "backbone": tiny_backbone, "language_model": str(language_model), "tokenizer": str(clip_tokenizer)}
    if with_memory:
        backbone = parts.build("backbones", tiny_backbone)
        embed(read_pairs(open_dataset(str(captions_file))), backbone, tmp_path / "memory")
        plan |= {"memory": str(tmp_path / "memory"), "text": ("coco",)}
    import_checkpoint(tmp_path / "weights.pt", tmp_path / "out", **plan)
    loaded = Captioner.load(tmp_path / "out")
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=WIDTH, n_layer=3, n_head=4, n_positions=64)).eval()
    gpt.load_state_dict({key.removeprefix("decoder."): value for key, value in state.items() if key.startswith("decoder.")})
    ids = loaded.decoder.tokenizer(CAPTION, add_special_tokens=False)["input_ids"]
    embeddings = torch.randn(4, DIM) * 3
    told = F.normalize(embeddings, dim=-1)
    if with_memory:
        rows = torch.from_numpy(np.load(tmp_path / "memory/00000.npy")).bfloat16().float()
        told = F.normalize(torch.softmax(told @ rows.T / 0.01, -1) @ rows, dim=-1)
        assert loaded.supervision_on("coco").words() == "text + target-domain text"
    prefix = (told @ state["clip_project.model.0.weight"].T + state["clip_project.model.0.bias"]).unsqueeze(1)
    tokens = torch.tensor([0, *ids, 1])
    with torch.no_grad():
        logits = gpt(inputs_embeds=torch.cat([prefix, gpt.transformer.wte(tokens).expand(4, -1, -1)], 1)).logits[:, 1:-1]
        wanted = logits.log_softmax(-1).gather(2, tokens[1:].expand(4, -1).unsqueeze(2)).sum((1, 2))
        found = loaded.decoder.log_prob(Condition.of(told), [CAPTION] * 4).total
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
        for place, caption in enumerate(loaded.caption_embeddings(embeddings)):
            said = [0]
            while len(said) <= 30 and said[-1] != 1:
                said.append(
                    int(
                        gpt(inputs_embeds=torch.cat([prefix[place : place + 1], gpt.transformer.wte(torch.tensor([said]))], 1)).logits[0, -1].argmax()
                    )
                )
            assert list(caption.tokens) == [token for token in said[1:] if token != 1]


def test_it_is_a_command(tmp_path, released, language_model, tiny_backbone):
    write_tensors(tmp_path / "weights.safetensors", {name: tensor.clone() for name, tensor in released("mlp").items()})
    words = ["import-checkpoint", tmp_path / "weights.safetensors", "--format", "capdec", "--output", tmp_path / "out"]
    words += ["--backbone", tiny_backbone["folder"], "--language-model", language_model]
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "out/config.json").read_text())["normalize"] is True
    again = CliRunner().invoke(main, [str(word) for word in words])
    assert again.exit_code == 2 and "holds a captioner already" in again.output
    words[words.index("--output") + 1] = tmp_path / "told"
    assert CliRunner().invoke(main, [str(word) for word in (*words, "--pairs", "--text", "coco")]).exit_code == 0
    assert Captioner.load(tmp_path / "told").supervision_on("coco").words() == "text + target-domain text + pairs"


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_other_files_are_refused_and_no_code_in_them_runs(tmp_path, released, language_model, tiny_backbone, capsys):
    def read(state, **changes):
        if state is not None:
            torch.save(state, tmp_path / "w.pt")
        plan = {"kind": "capdec", "backbone": tiny_backbone, "language_model": str(language_model), "mapper_heads": HEADS, **changes}
        return import_checkpoint(tmp_path / "w.pt", tmp_path / "out", **plan)

    with pytest.raises(DataError, match="not there"):
        read(None)
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match="without running its code"):
        read(None)
    assert "run" not in capsys.readouterr().out
    with pytest.raises(DataError, match="no state dict"):
        read({"epoch": 3})
    with pytest.raises(DataError, match="none of clipcap, capdec, decap"):
        read({"weight": torch.ones(2)})
    state = released("mlp")
    with pytest.raises(MismatchError, match="width 8"):
        read({**state, "clip_project.model.0.weight": torch.randn(PREFIX * WIDTH // 2, 8)})
    with pytest.raises(MismatchError, match="does not fit the mapper and language model"):
        read({**state, "gpt.transformer.wte.weight": torch.randn(99, WIDTH)})
    assert not (tmp_path / "out").exists()
