"""Digests that every exact llama-quantize gives for the golden model: by type, and by type with the golden importance matrix.

Made with llama.cpp 0c1e57098 (GCC, x86-64, GGML_NATIVE off).  They change only with the golden model, or when llama.cpp changes
an algorithm; then both the old and the new build are exact, and this list follows the pinned one.
"""

GOLDEN: dict[str, str] = {
    "Q2_K": "70d4b3cd2656da8bbaf0527552730b498147ff424f8e7a6a2b4997ec974877dc",
    "Q2_K+imatrix": "6ffa8103a8e8ac7dcbdfb0be70af3124fcbe4a929007193b4a60f80f4f76cebd",
    "Q3_K_S": "71ea7b325bdce110ae3aed4c244ceacbe0edf3ec2aef050e47021ff0932cbfc7",
    "Q3_K_S+imatrix": "edfdcd80db739fcc5c9222e13cc7320466f5d299166960650434ced2d74f7791",
    "Q4_K_S": "4e09d2e908c5cba8da17750d6b5ef94ee775aae1632abb15b92fb1b073ebb403",
    "Q4_K_S+imatrix": "1ee5dc6cdf3a2f1045b586512297583359c353fcde2817e9990f7ae54d7f4aec",
    "Q5_K_S": "b9b2835a98e89cc523594736311e652096161022fea20786a46dd37a1088dcbc",
    "Q5_K_S+imatrix": "c9f422d6f18d7160b36ddddde5e7316cd84072b9d7265c64e002d94af4cc7bff",
    "Q6_K": "615a7b4021aeaa26dba94bf47e308edcc9bfda221590a6709448a23c73e5a29d",
    "Q6_K+imatrix": "07391b5069bb6513b2128b13773974651f9534664adfc9b9d472179e7a2cee31",
    "Q8_0": "9ecc56edafbb8052f91e1f03884c7925e6e7798ea9e08a4856bd53a5e380c37f",
    "Q8_0+imatrix": "9ecc56edafbb8052f91e1f03884c7925e6e7798ea9e08a4856bd53a5e380c37f",
    "Q4_0": "de15d4cc7285fcfae8d7a3286ab47590726f5bbb6091f7751ce05c40c37fc580",
    "Q4_0+imatrix": "1011bd9cba14653b2848cae94567f2914e89ef634a717ac04d8e5725c42a89ba",
    "Q4_1": "87dc66c9b939531237c1ccc90c31f826b2350b498e743c234ce090632b4c0d72",
    "Q4_1+imatrix": "5658f06ecea7d8fec389f1a0d4770784bc7b5cbf246736ec7b273f959c39342b",
    "Q5_0": "bdd8e8fcf2f027a2cd0572b03ed10b3e454a03b34db8bf26d2ea63d00a89cf92",
    "Q5_0+imatrix": "dc35ade744009c51bae472528b87a6e4a561ef6a70435600ca581c7a2b4f22fd",
    "Q5_1": "117d8861d0e124b2c60a46ca7320a3a370bad1fe5a9e67fe678d2bc3f4705a9b",
    "Q5_1+imatrix": "6a1f3a4dd7aa43a5b79e5ed9059ba525b8da739cecb9ba8622d763c389560c35",
    "IQ4_NL": "bf4985d6f2f5791dfa9964c59b48c51de065ba44e92fff0fcaf5e67942698cae",
    "IQ4_NL+imatrix": "8b02787481d1c09211a688da4b01dcb6a20094fb4444e89ec986542b993ab0af",
    "IQ4_XS": "c61202a92c4c0a7dff19142ab6f2774449cd055ae48906c5da6cb8ff71380239",
    "IQ4_XS+imatrix": "81470984a9637f8d67b0763328a6b05b0c659d8320c649fcfd6c6c4d2a4f1b7c",
}
