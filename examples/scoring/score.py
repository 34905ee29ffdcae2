"""Forecasts bike rentals; the functions are those of a scoring script of Azure Machine Learning."""

import json
import logging
import os
from datetime import date
from pathlib import Path

import holidays
import joblib
import numpy


def init():
    """Load the model when the server starts; its files are in AZUREML_MODEL_DIR."""
    global model, calendar
    model = joblib.load(Path(os.environ["AZUREML_MODEL_DIR"]) / "rentals.joblib")
    calendar = holidays.country_holidays("DE")
    logging.info("the model is loaded")


def run(raw_data):
    """Return the rentals of each day in a request such as {"data": ["2026-12-24"]}."""
    days = [date.fromisoformat(day) for day in json.loads(raw_data)["data"]]
    rows = [[day.weekday(), day.timetuple().tm_yday, day in calendar] for day in days]
    return model.predict(numpy.array(rows, dtype=float)).round(1).tolist()
