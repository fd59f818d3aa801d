"""Checkpoints on their way in and out: conversion, merging, model cards."""
