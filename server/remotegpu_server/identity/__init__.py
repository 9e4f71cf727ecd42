# SPDX-FileCopyrightText: 2026 The remotegpu authors
# SPDX-License-Identifier: Apache-2.0
"""Who calls, proved: `--identity`.

provider          the interface: from a call's metadata to an identity
assembly          what the file of `--identity` asks for, put together
verified          takes the credential apart, asks the checker of its kind, remembers what was proved
tokens            static bearer tokens
jwt, key_sets     web identity tokens of an AWS account (or of another issuer), and the issuers' keys
caller_identity   presigned GetCallerIdentity requests: what is checked, and what is asked of STS
roles             names of IAM roles
file              the file of `--identity`
asking            the HTTP client for issuers and STS
"""
