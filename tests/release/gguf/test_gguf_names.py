from __future__ import annotations

import pytest

from pruner.errors import InputError
from release.gguf.names import check_tags, file_for_tag, labelled_otherwise, last_label, wrong_tag

FILES = {tag: f"gemma-109e-{tag}.gguf" for tag in ("Q4_K_M", "Q6_K", "Q8_0", "IQ4_XS")}


def test_plain_names_resolve_to_their_own_files():
    check_tags(FILES, ["gemma-109e-imatrix.gguf", "README.md"])
    assert {tag: file_for_tag(FILES.values(), tag.lower()) for tag in FILES} == FILES


@pytest.mark.parametrize(
    ("files", "others", "expected"),
    [
        (
            {"Q6_K": "m-Q6_K.gguf", "CD-Q6_K": "m-CD-Q6_K.gguf"},
            [],
            r"quant Q6_K: .* would load m-CD-Q6_K\.gguf and not m-Q6_K\.gguf",
        ),
        ({"Q8_0": "q6_k-merge-Q8_0.gguf", "Q6_K": "q6_k-merge-Q6_K.gguf"}, [], None),
        (
            {"Q6_K": "q6_k-merge-Q6_K.gguf", "IQ4_XS": "q6_k-merge-IQ4_XS.gguf"},
            [],
            "quant Q6_K: .* would load q6_k-merge-IQ4_XS",
        ),
        ({"Q4_K_M": "m-Q4_K_M.gguf"}, ["m-UD-Q4_K_M.gguf"], None),
        ({"Q4_K_M": "m-Q4_K_M.gguf"}, ["a-UD-Q4_K_M.gguf"], "would load a-UD-Q4_K_M"),
        ({"Q6_K": "imatrix-model-Q6_K.gguf"}, [], "would not find imatrix-model-Q6_K"),
        ({"Q6_K": "m-Q6_K_large.gguf"}, [], r"end its name in -Q6_K\.gguf"),
        ({"Q6_K": "m-Q6_K-00001-of-00002.gguf"}, ["m-Q6_K-00002-of-00002.gguf"], None),
        ({"Q6_K": "m-Q6_K.gguf"}, ["Q6_K.md", "Q6_K-notes/README.md", "a-Q6_K.mmproj-f16.gguf"], None),
        ({"Q6_K": "m-Q6_K.gguf"}, ["mtp-m-Q6_K.gguf", "m-imatrix-Q6_K.gguf", "a/mmproj-Q6_K.gguf"], None),
        ({"Q6_K": "m-Q6_K.gguf"}, ["Q6_K-old/n-Q8_0.gguf"], "would load Q6_K-old/n-Q8_0"),
        ({"Q6_K": "m-Q6_K.gguf"}, ["preset.ini"], "would not find m-Q6_K"),
        ({"Q6.K": "m-Q6.K.gguf"}, [], "the Hub finds no quant label in this name"),
        ({"best": "m-best.gguf"}, [], "the Hub finds no quant label in this name; end it in one, such as best-Q6_K"),
        ({"CD-Q6_K": "m-CD-Q6_K.gguf"}, [], None),
        ({"CD-Q6_K": "m-CD-Q6_K.gguf", "Q6_K-plain": "m-Q6_K-plain.gguf"}, [], "the Hub reads the last quant label"),
        ({"UD-Q4_K_M": "m-UD-Q4_K_M.gguf", "Q8_0": "m-Q8_0.gguf"}, [], None),
        ({"Q8_0": "m-Q8_0.gguf"}, ["z-Q8_0.gguf"], "the Hub reads .* would show z-Q8_0.gguf for Q8_0"),
        ({"Q8_0": "m-Q8_0.IQ4_XS.gguf"}, [], "would show m-Q8_0.IQ4_XS.gguf for IQ4_XS for Q8_0"),
    ],
)
def test_a_tag_that_finds_another_file_is_refused(files: dict[str, str], others: list[str], expected: str | None):
    if expected is None:
        check_tags(files, others)
        return
    with pytest.raises(InputError, match=expected) as caught:
        check_tags(files, others)
    assert "\n" not in str(caught.value)


def test_a_file_of_the_release_that_the_repository_has_already_is_no_other():
    assert wrong_tag("Q6_K", "m-Q6_K.gguf", ["m-Q6_K.gguf", "m-Q8_0.gguf"]) is None
    found = wrong_tag("Q6_K", "m-Q6_K.gguf", ["A-model-Q6_K.gguf", "m-Q6_K.gguf"])
    assert found is not None
    assert found.found == "A-model-Q6_K.gguf"


@pytest.mark.parametrize(
    ("name", "kind", "claimed"),
    [
        ("Q6_K", "Q6_K", None),
        ("Q6_K", "Q4_K_M", "Q6_K"),
        ("Q8_0", "Q6_K", "Q8_0"),
        ("CD-Q6_K", "Q6_K", None),
        ("CD-Q6_K", "Q8_0", "Q6_K"),
        ("UD-Q4_K_M", "Q4_K_M", None),
        ("UD-Q4_K_XL", "Q4_K_M", None),
        ("Q4_K_M", "Q4_K", None),
        ("q4_k_m", "Q4_K_S", "Q4_K_M"),
        ("Q6_K", None, None),
        ("BF16", "COPY", None),
        ("plain", "Q6_K", None),
    ],
)
def test_a_label_is_held_against_the_type(name: str, kind: str | None, claimed: str | None):
    assert labelled_otherwise(name, kind) == claimed


def test_a_dot_in_a_tag_is_any_letter_to_llama_cpp():
    assert file_for_tag(["a-Q6xK-1.gguf", "m-Q6.K.gguf"], "Q6.K") == "a-Q6xK-1.gguf"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("m-Q4_K_M.gguf", "Q4_K_M"),
        ("m-q4_k_m.gguf", "Q4_K_M"),
        ("m-BF16.gguf", "BF16"),
        ("m-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("m-Q8_0-IQ2_XXS.gguf", "IQ2_XXS"),
        ("m-MXFP4_MOE.gguf", "MXFP4_MOE"),
        ("m-Q6_K_large.gguf", "Q6_K_LARGE"),
        ("m-Q2_K_S.gguf", "Q2_K_S"),
        ("gemma-109e.gguf", None),
    ],
)
def test_the_hub_reads_the_last_label(name: str, label: str | None):
    assert last_label(name) == label
