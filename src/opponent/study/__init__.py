"""The paper's human experiment: can people tell which image inhibits a feature?"""
