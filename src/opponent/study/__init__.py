"""The paper's human experiment: can people tell what silences a feature from what excites it?"""
