"""Uploads a picture with one of Python's HTTP libraries. Usage: upload.py LIBRARY URL FILE; prints the response's body."""

import asyncio
import sys

NAME = 'my "best" café photo.png'


def with_requests(url, file):
    import requests

    return requests.post(url, data={"T": "1"}, files={"image": (NAME, file)}).text


def with_httpx(url, file):
    import httpx

    return httpx.post(url, data={"T": "1"}, files={"image": (NAME, file, "image/png")}).text


def with_aiohttp(url, file):
    import aiohttp

    async def post():
        form = aiohttp.FormData()
        form.add_field("T", "1")
        form.add_field("image", file, filename=NAME)
        async with aiohttp.ClientSession() as session, session.post(url, data=form) as response:
            return await response.text()

    return asyncio.run(post())


def with_urllib3(url, file):
    import urllib3

    return urllib3.request("POST", url, fields={"T": "1", "image": (NAME, file.read())}).data.decode()


library, url, path = sys.argv[1:]
with open(path, "rb") as file:
    print(globals()[f"with_{library}"](url, file))
