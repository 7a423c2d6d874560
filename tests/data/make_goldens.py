"""Writes the tokenizer goldens beside this file.

Needs the Python packages tokenizers (its regex engine is Oniguruma, ours is not) and, for the prompts, the reference
logits of the demo model: make_goldens.py [PROMPTS.json REFERENCE.safetensors]. Run it after a change of the inputs.
"""

import json
import pathlib
import sys

from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).parent
TOKENIZER = HERE.parent / "models" / "tiny-ling-tokenizer.json"

TEXTS = [
    "",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "a",
    " a",
    "  a",
    "a ",
    "a  ",
    "Hello, world!",
    "The quick brown fox jumps over the lazy dog.",
    "don't DON'T we'll We'Ll they've THEY'RE it's IT'S I'm I'd 'tis '' 's 'S 'x",
    "3.14159 1234567890 12 345 6,789 0x1F 1e-9 \u00bd \u2460 \u0663\u0664 \u4e09\u5341 \u2167",
    "fn main() {\n    let x: Vec<u8> = vec![0; 4];\n\tprintln!(\"{:?}\", x);\n}\n",
    "def f(x):\n    return {k: v for k, v in x.items() if k != '__init__'}\n\n\n",
    "line one\r\nline two\r\n\r\n  indented\r\n",
    "mixed\n\r\n\r \n \r\n  \n  x",
    "trailing newlines\n\n\n",
    "   leading",
    " \t \t x \u00a0 y\u00a0\u00a0z \u3000\u3000w \u2003q \u2028r\u2029s \u0085t \u000b\u000cu",
    "a" * 300,
    " " * 300,
    " " * 299 + "x",
    "\n" * 100 + "x",
    "!" * 50 + "?" * 50 + "\n\n",
    "ab" * 100 + "12" * 100 + ".," * 100,
    "\u0000\u0001\u0002\u001f\u007f\u0080\u009f",
    "na\u00efve caf\u00e9 r\u00e9sum\u00e9 Stra\u00dfe \u00c6sir \u0130stanbul \u0131",
    "nai\u0308ve cafe\u0301 e\u0301\u0323\u0301 a\u20dd \u0301x",
    "\u0420\u0443\u0441\u0441\u043a\u0438\u0439 \u0442\u0435\u043a\u0441\u0442, \u0423\u043a\u0440\u0430\u0457\u043d\u0441\u044c\u043a\u0430",
    "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac \u1f00\u03c1\u03c7\u1fc7 \u1f26\u03bd \u1f41 \u03bb\u03cc\u03b3\u03bf\u03c2",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0645\u064e\u0631\u0652\u062d\u064e\u0628\u0627\u064b \u0641\u0627\u0631\u0633\u06cc\u200c\u0647\u0627 \u061f\u060c",
    "\u05e2\u05d1\u05e8\u05d9\u05ea \u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0915\u094d\u0937\u0947\u0924\u094d\u0930 \u09ac\u09be\u0982\u09b2\u09be \u0ba4\u0bae\u0bbf\u0bb4\u0bcd",
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 \u0ea5\u0eb2\u0ea7 \u1781\u17d2\u1798\u17c2\u179a \u1019\u103c\u1014\u103a\u1019\u102c",
    "\u4e2d\u6587\u6d4b\u8bd5\uff0c\u8fd9\u662f\u4e00\u4e2a\u53e5\u5b50\u3002\u7b2c\uff11\uff12\u7ae0\uff01",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8\u3001\u304b\u306a\u30fb\u30ab\u30ca\uff76\uff85\u3002",
    "\ud55c\uad6d\uc5b4 \ud14c\uc2a4\ud2b8 \u1112\u1161\u11ab",
    "\u10e5\u10d0\u10e0\u10d7\u10e3\u10da\u10d8 \u0540\u0561\u0575\u0565\u0580\u0565\u0576 \u12a0\u121b\u122d\u129b \u13e3\u13b3\u13a9",
    "\U00010400\U00010428 \U0001d504\U0001d7d8 \U00020000\U0002a6df \U000e0001 \U0010ffff \ue000 \ufdd0",
    "\U0001f642 \U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \u2764\ufe0f \U0001f44d\U0001f3fd 1\ufe0f\u20e3",
    "\ufeffbom zero\u200bwidth \u200e\u200f\u202e\u2066 soft\u00adhyphen \u00b5\u03bc \u212b \u017f \u1e9e",
    "\u201cquotes\u201d \u2018single\u2019 \u2014 \u2013 \u2026 \u00ab\u00bb \u20ac \u00a3 \u00a5 \u2030 \u221e \u2248 \u2192",
    "https://example.org/a_b?c=d&e=%20#f user@example.org /usr/lib C:\\dir\\x.txt",
    "$x^2 + \\frac{1}{2} \\leq \\sum_{i=0}^{n} a_i$ ~`|^<=>",
    "<role>SYSTEM</role>detailed thinking off<|role_end|><role>HUMAN</role>Hi<|role_end|><role>ASSISTANT</role>",
    "<think>\nwell\n</think>\n\nyes<|endoftext|>",
    "< role ><|role_end|<|role_end|>|><<role>></role",
    "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"x\": [1, 2]}}\n</tool_call><tool_response></tool_response>",
    "x<|startoftext|> y <|startoftext|>\n<|startoftext|><|startoftext|>",
]


def main():
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    cases = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids} for text in TEXTS]
    write("tokenizer_texts.json", cases)
    if len(sys.argv) == 3:
        from safetensors import safe_open

        prompts = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
        with safe_open(sys.argv[2], "np") as reference:
            cases = [
                {"text": prompt, "ids": reference.get_tensor(f"ids_{index}").tolist()}
                for index, prompt in enumerate(prompts)
            ]
        write("tokenizer_prompts.json", cases)


def write(name, cases):
    lines = ",\n".join(json.dumps(case) for case in cases)
    (HERE / name).write_text(f"[\n{lines}\n]\n", encoding="ascii")


main()
