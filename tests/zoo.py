"""The models that tests of real training iterate over: Hugging Face's, nets of other kinds, and those of `models/`.

    model, generator = entry.factory(), torch.Generator().manual_seed(0)
    loss = entry.loss(model(**entry.inputs(4, generator)))

All are made from a configuration, so nothing is downloaded, and each trains by AdamW with its defaults.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from precc.models.gpt import GPT
from precc.models.lenet5 import LeNet5
from precc.models.lstm import LSTMLanguageModel
from precc.models.mlp import MLP
from precc.models.resnet20 import ResNet20
from tests.small_nets import ConvNet, Recommender, RecurrentClassifier, UNet

Inputs = dict[str, Tensor]
Sizes = dict[str, Any]

VOCABULARY, LENGTH, CLASSES = 96, 16, 3


@dataclass(frozen=True, slots=True)
class Entry:
    """A model, its inputs, and the loss of its output.

    Args:
        name: the key in `ZOO`.
        factory: the model in training mode; its parameters come from torch's default generator.
        inputs: the keyword arguments of the forward, for a batch size and a generator.
        loss: a scalar that decreases in training, from the output of the forward.
        random: whether a forward in training draws random numbers: it has dropout.
    """

    name: str
    factory: Callable[[], nn.Module]
    inputs: Callable[[int, Generator], Inputs]
    loss: Callable[[Any], Tensor]
    random: bool = False


def own_loss(output: Any) -> Tensor:
    """The loss that the model computed from its labels."""
    loss: Tensor = output.loss
    return loss


def cross_entropy(output: Any) -> Tensor:
    """Of logits [..., classes], against classes that follow each other in the order of the positions."""
    logits = (output if isinstance(output, Tensor) else output.logits).flatten(0, -2)
    return F.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[-1])


def pixel_cross_entropy(logits: Tensor) -> Tensor:
    """Of logits [batch, classes, height, width], likewise."""
    return cross_entropy(logits.movedim(1, -1))


def click_entropy(logits: Tensor) -> Tensor:
    """Of logits [batch]; every second one is a click."""
    return F.binary_cross_entropy_with_logits(logits, torch.arange(len(logits)) % 2.0)


def distance(output: Any) -> Tensor:
    """Of BERT's states and pooled state from numbers that follow each other."""
    states, pooled = output.last_hidden_state, output.pooler_output
    wanted = torch.linspace(-1, 1, states.shape[-1])
    return (states - wanted).square().mean() + (pooled - wanted).square().mean()


def tokens(batch: int, generator: Generator, length: int = LENGTH) -> Tensor:
    """Random ones, none of the special 0, 1, 2."""
    return torch.randint(3, VOCABULARY, (batch, length), generator=generator)


def padding(batch: int, *, left: bool) -> Tensor:
    """An attention mask: sequence i lacks i tokens, up to half of its length, on one side."""
    lacking = torch.arange(batch)[:, None] % (LENGTH // 2)
    places = torch.arange(LENGTH)
    return (places >= lacking if left else places < LENGTH - lacking).long()


def prompts(batch: int, generator: Generator, *, labels: bool = True) -> Inputs:
    """Sequences padded on the left, to be continued; padding is no label."""
    mask, ids = padding(batch, left=True), tokens(batch, generator)
    inputs = {"input_ids": ids, "attention_mask": mask}
    return {**inputs, "labels": ids.masked_fill(mask == 0, -100)} if labels else inputs


def bare_prompts(batch: int, generator: Generator) -> Inputs:
    """Without labels."""
    return prompts(batch, generator, labels=False)


def passages(batch: int, generator: Generator) -> Inputs:
    """Sequences of full length, without a mask; every token is a label."""
    ids = tokens(batch, generator)
    return {"input_ids": ids, "labels": ids}


def sentences(batch: int, generator: Generator) -> Inputs:
    """Sequences padded on the right."""
    return {"input_ids": tokens(batch, generator), "attention_mask": padding(batch, left=False)}


def labelled_sentences(batch: int, generator: Generator) -> Inputs:
    """And a class for each."""
    return {**sentences(batch, generator), "labels": torch.arange(batch) % CLASSES}


def pairs(batch: int, generator: Generator) -> Inputs:
    """Padded sentences, and what they are to be translated to."""
    return {**sentences(batch, generator), "labels": tokens(batch, generator, 10)}


def images(channels: int, size: int) -> Callable[[int, Generator], Inputs]:
    """Noise."""
    return lambda batch, generator: {"images": torch.randn(batch, channels, size, size, generator=generator)}


def labelled_pixels(batch: int, generator: Generator) -> Inputs:
    """Images by the names of `transformers`."""
    values = torch.randn(batch, 3, 16, 16, generator=generator)
    return {"pixel_values": values, "labels": torch.arange(batch) % CLASSES}


def speech(batch: int, generator: Generator) -> Inputs:
    """Spectra of two frames a position, and their transcript."""
    spectra = torch.randn(batch, 8, 2 * LENGTH, generator=generator)
    return {"input_features": spectra, "labels": tokens(batch, generator, 10)}


def text(vocabulary: int, length: int = LENGTH) -> Callable[[int, Generator], Inputs]:
    """Tokens by the name that our own models have for them; few for recurrent ones: graphs have every step."""
    return lambda batch, generator: {"tokens": torch.randint(vocabulary, (batch, length), generator=generator)}


def visits(batch: int, generator: Generator) -> Inputs:
    """Dense features and bags of categories, three a visit in the mean."""
    starts = torch.randint(3 * batch + 1, (3, batch), generator=generator).sort().values
    return {
        "dense": torch.randn(batch, 8, generator=generator),
        "categories": torch.randint(50, (3, 3 * batch), generator=generator),
        "offsets": starts - starts[:, :1],  # the first bag begins at the beginning
    }


SIZES: Sizes = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
SPECIAL: Sizes = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
GROUPED: Sizes = {**SIZES, **SPECIAL, "num_key_value_heads": 2}


def gpt2(dropout: float = 0.1, layers: int = 2) -> nn.Module:
    """Tied, as GPT-2 is."""
    dropouts: Sizes = {"attn_pdrop": dropout, "embd_pdrop": dropout, "resid_pdrop": dropout}
    sizes: Sizes = {"vocab_size": VOCABULARY, "n_positions": 32, "n_embd": 32, "n_layer": layers, "n_head": 4}
    return hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, **dropouts, **SPECIAL))


def llama(key_value_heads: int = 2, layers: int = 2) -> nn.Module:
    """Tied, four heads of queries for so many of keys and values."""
    sizes: Sizes = {**GROUPED, "num_key_value_heads": key_value_heads, "num_hidden_layers": layers}
    return hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, tie_word_embeddings=True))


def qwen3() -> nn.Module:
    """Norms of queries and keys, heads of another width than their share; not tied."""
    return hf.Qwen3ForCausalLM(hf.Qwen3Config(**GROUPED, head_dim=16))


def mixtral() -> nn.Module:
    """Four experts, two a token."""
    return hf.MixtralForCausalLM(hf.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2))


def bert(kind: type[nn.Module], dropout: float = 0.1) -> nn.Module:
    """With or without the classifier."""
    dropouts: Sizes = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return kind(hf.BertConfig(**SIZES, **dropouts, num_labels=CLASSES))


def t5() -> nn.Module:
    """Encoder and decoder, relative positions; tied."""
    sizes: Sizes = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return hf.T5ForConditionalGeneration(hf.T5Config(**sizes, dropout_rate=0.0, decoder_start_token_id=0))


def vit() -> nn.Module:
    """16 patches and a class token."""
    sizes: Sizes = {name: SIZES[name] for name in SIZES if name not in ("vocab_size", "max_position_embeddings")}
    return hf.ViTForImageClassification(hf.ViTConfig(**sizes, image_size=16, patch_size=4, num_labels=CLASSES))


def whisper() -> nn.Module:
    """Convolutions, encoder and decoder; tied."""
    sides: Sizes = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {"layers": 1, "attention_heads": 4, "ffn_dim": 64}.items()
    }
    lengths: Sizes = {"max_source_positions": LENGTH, "max_target_positions": LENGTH}
    config = hf.WhisperConfig(
        vocab_size=VOCABULARY, num_mel_bins=8, d_model=32, decoder_start_token_id=1, **sides, **lengths, **SPECIAL
    )
    return hf.WhisperForConditionalGeneration(config)


_ENTRIES = (
    Entry("gpt2", gpt2, prompts, own_loss, random=True),
    Entry("gpt2-logits", lambda: gpt2(0.0), bare_prompts, cross_entropy),
    Entry("llama", llama, prompts, own_loss),
    Entry("llama-logits", lambda: llama(4), bare_prompts, cross_entropy),
    Entry("qwen3", qwen3, passages, own_loss),
    Entry("mixtral", mixtral, prompts, own_loss),
    Entry("bert-classifier", lambda: bert(hf.BertForSequenceClassification), labelled_sentences, own_loss, random=True),
    Entry("bert-states", lambda: bert(hf.BertModel, 0.0), sentences, distance),
    Entry("t5", t5, pairs, own_loss),
    Entry("vit", vit, labelled_pixels, own_loss),
    Entry("whisper", whisper, speech, own_loss),
    Entry("convnet", ConvNet, images(3, 16), cross_entropy),
    Entry("lstm-classifier", lambda: RecurrentClassifier(nn.LSTM, bidirectional=True), text(64, 6), cross_entropy),
    Entry("gru-classifier", lambda: RecurrentClassifier(nn.GRU, layers=2), text(64, 6), cross_entropy),
    Entry("unet", UNet, images(3, 16), pixel_cross_entropy),
    Entry("recommender", Recommender, visits, click_entropy),
    Entry("mlp", MLP, images(1, 28), cross_entropy),
    Entry("lenet5", LeNet5, images(1, 28), cross_entropy),
    Entry("resnet20", ResNet20, images(3, 32), cross_entropy),
    Entry("gpt", lambda: GPT(context=LENGTH, width=32, layers=2), text(128), cross_entropy),
    Entry("lstm", lambda: LSTMLanguageModel(width=32), text(128, 6), cross_entropy),
)

#: Every entry by its name.
ZOO = {entry.name: entry for entry in _ENTRIES}
