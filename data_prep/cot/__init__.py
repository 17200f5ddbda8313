"""Chain of thought: write a thought for every row, verify it, keep what leads to the answer.

    python -m data_prep cot --root data/refcoco --out data/refcoco-cot --form grounded          # templates
    python -m data_prep cot ... --teacher http://localhost:8000/v1 --model Qwen/Qwen3-VL-32B     # a teacher
    python -m data_prep cot ... --completions rollouts.jsonl                                     # the policy itself

Thoughts keep coordinates canonical, in the convention of `grounding.wording`; a dialect turns them into a model's
numbers when a prompt is made. Every thought is checked (`data_prep.cot.verify`); a row whose thoughts all fail goes
to rejects.jsonl with the reason and the thought.
"""
