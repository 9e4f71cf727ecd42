# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""From an object in S3 to its result, by way of SQS and a leased device: `remotegpu orchestrate`.

Pure: `events` (a message's body to the objects it is about), `job` (the course of one message: event → effects),
`results` (keys, metadata, what a result that is there means), `settings`, `metrics`. With I/O: `course` (one job from
the look at its object to its stored result), `invokers` (what is run), `runner` (threads: receive, run, extend, end),
`sqs_handler` (the same as a Lambda function that SQS triggers), `leasing` (leases given back, also to a scheduler that
hangs), `progress` (what is told of it).

No message is lost: one is deleted only after the results of all its objects are stored, and is given back in every
other case. No result is written twice: a result carries the identity of its object, and is put on a condition.
"""
