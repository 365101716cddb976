"""A PromptLayer of our own: a process that checks every field as the real one documents it, and keeps a journal."""
