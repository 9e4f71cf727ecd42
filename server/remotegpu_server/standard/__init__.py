# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""The standard door: the Open Inference Protocol, as clients of KServe and Triton speak it.

served          what the protocol says of the models: metadata, versions
tensors         datatypes, typed contents, strings
checks          what a request may hold; the refusals have Triton's words
refusals        refusals as codes and texts
infer           a request becomes a program, its result outputs; knows neither gRPC nor HTTP
classification  the best of an output, as strings
statistics      how many requests, and where their time went
wire            ModelInfer's messages as bytes; `requests`: their meaning
config          metadata and configuration as messages
repository      index, load and unload
service, stream, health, listener   gRPC
threshold       asks who calls before anything is read
"""
