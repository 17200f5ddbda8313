"""Where a model looks: reading its attention exactly, without ever building a full map.

    text_attention   the function that computes a model's text attention, and how another is set
    capture          queries, keys and row log-sum-exp from the model's own forward pass
    signals          what attention says about each response token
    visual           attention on the image: masses, entropies, maps; the target's cells; blanked images
    sinks            which image tokens draw attention whatever the text says
    heads            which heads to listen to: local, global, image-reading, receiver
    reading          the one reader: captured passes to signals and maps, and the choice of heads
    response         which tokens of a response hold its answer and its thought
    rollout          grids of attention over the image, one per rollout, for rewards that read it
    prompt           attention of a prompt's last token, and redistributing it while answers are generated
    maps             a prompt's map, and how well a map meets the target (NumPy alone)

Axis letters: B responses, L layers, H heads, T response tokens, P prompt tokens, N = P + T, V image tokens,
S sentences, d head size.
"""
