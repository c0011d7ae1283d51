"""Answers questions about evidence with dcap-qvl: one JSON object a line on
standard input, one a line on standard output. A collateral stays in force until
the next one comes."""

import base64
import json
import sys

import dcap_qvl


def collateral(c):
    b = {k: base64.b64decode(v or "") for k, v in c.items()}
    return dcap_qvl.QuoteCollateralV3(
        pck_crl_issuer_chain=b["pckCRLChain"].decode(),
        root_ca_crl=b["rootCRL"],
        pck_crl=b["pckCRL"],
        tcb_info_issuer_chain=b["tcbInfoChain"].decode(),
        tcb_info=b["tcbInfo"].decode(),
        tcb_info_signature=b["tcbInfoSignature"],
        qe_identity_issuer_chain=b["qeIdentityChain"].decode(),
        qe_identity=b["qeIdentity"].decode(),
        qe_identity_signature=b["qeIdentitySignature"],
    )


def verify(quote, c, root, at):
    if root:
        return dcap_qvl.verify_with_root_ca(quote, c, root, at)
    return dcap_qvl.verify(quote, c, at)


current = None
for line in sys.stdin:
    q = json.loads(line)
    try:
        if "collateral" in q:
            current = None
            current = collateral(q["collateral"])
        if current is None:
            raise ValueError("the collateral cannot be read")
        v = verify(base64.b64decode(q["quote"]), current, base64.b64decode(q["root"]), q["at"])
        answer = {"ok": True, "status": v.status, "advisories": sorted(set(v.advisory_ids))}
    except BaseException as e:  # a panic of the library is no Exception
        if isinstance(e, KeyboardInterrupt):
            raise
        answer = {"ok": False, "error": str(e), "panic": "Panic" in type(e).__name__}
    print(json.dumps(answer), flush=True)
