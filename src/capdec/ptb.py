def tokenize(t):
    return t.lower().replace(".", "").strip()
