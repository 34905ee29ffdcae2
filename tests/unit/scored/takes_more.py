"""Scoring script whose run() misspells request_headers."""


def init():
    pass


def run(data, request_header):
    return request_header
