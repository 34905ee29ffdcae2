"""Scoring script for raw requests, in the shape of Azure's examples of binary payloads."""

from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse


def init():
    pass


@rawhttp
def run(req: AMLRequest):
    if req.method == "GET":
        return AMLResponse(f"name={req.args.get('name')}", 200)
    if req.method == "OPTIONS":
        return AMLResponse("", 204, {"Access-Control-Allow-Origin": "*"})
    if req.mimetype == "multipart/form-data":
        sizes = [{"filename": file.filename, "size": len(file.read())} for file in req.files.getlist("file[]")]
        return {"response": sizes, "note": req.form.get("note")}
    if req.content_type == "application/x-broken":
        return AMLResponse("", 200, {"x-bad": "a\r\nx-injected: b"})
    response = AMLResponse(req.get_data()[::-1], 201, {"x-own": "yes"})
    response.mimetype = "image/jpg"
    response.headers.add("Set-Cookie", "a=1; Expires=Wed, 21 Oct 2037 07:28:00 GMT")
    response.headers.add("Set-Cookie", "b=2")
    return response
