"""OpenAI's client for Python makes videos. Usage: client.py flow|errors BASE_URL [PICTURE IMAGE_URL]. Prints JSON."""
import json, sys
import openai

mode, base_url, *args = sys.argv[1:]
client = openai.OpenAI(base_url=base_url, api_key="any-token", max_retries=0)
SMALL = {"T": 2, "steps": 1, "W": 64, "H": 64}
fields = lambda video: video.model_dump()


def flow(picture, image_url):
    drawn = client.videos.create_and_poll(prompt="a lighthouse", poll_interval_ms=20, extra_body=SMALL)
    with open(picture, "rb") as file:
        uploaded = client.videos.create(prompt="waves", input_reference=file, extra_body=SMALL)
    reference = {"input_reference": {"image_url": image_url}}  # as an argument, the client accepts only files
    fetched = client.videos.create(prompt="", extra_body={**SMALL, **reference})
    done = [client.videos.poll(video.id, poll_interval_ms=20) for video in (uploaded, fetched)]
    content = {
        variant: client.videos.download_content(drawn.id, variant=variant).read()
        for variant in ("video", "thumbnail", "spritesheet")
    }
    listed = [video.id for video in client.videos.list(limit=1, order="asc")]
    deleted = client.videos.delete(uploaded.id)
    gone = ""
    try:
        client.videos.retrieve(uploaded.id)
    except openai.NotFoundError as error:
        gone = error.code
    return {
        "drawn": fields(drawn),
        "done": [fields(video) for video in done],
        "content": {name: data[:12].hex() for name, data in content.items()},
        "listed": listed,
        "ids": [drawn.id, uploaded.id, fetched.id],
        "deleted": deleted.model_dump(),
        "gone": gone,
        "models": [model.id for model in client.models.list()],
    }


def errors(id, valid, reader, poor, fast):
    """The arguments are an id of an active video, and API keys."""

    def thrown(call):
        try:
            call()
        except openai.APIStatusError as error:
            return [type(error).__name__, error.status_code, error.code, error.param]

    as_key = lambda key: client.with_options(api_key=key).videos
    videos = as_key(valid)
    return {
        "no such key": thrown(lambda: as_key("i2v_wrong").list()),
        "no scope": thrown(lambda: as_key(reader).create(prompt="x")),
        "no budget": thrown(lambda: as_key(poor).create(prompt="x")),
        "too fast": thrown(lambda: [as_key(fast).create(prompt="x") for _ in range(2)]),
        "no such video": thrown(lambda: videos.retrieve("video_123")),
        "not ready": thrown(lambda: videos.download_content(id)),
        "still active": thrown(lambda: videos.delete(id)),
        "size": thrown(lambda: videos.create(prompt="x", size="huge")),
        "seconds": thrown(lambda: videos.create(prompt="x", seconds="1000")),
        "model": thrown(lambda: videos.create(prompt="x", model="gpt-5")),
        "picture": thrown(lambda: videos.create(prompt="x", input_reference=("a.png", b"no picture"))),
        "file_id": thrown(lambda: videos.create(prompt="x", extra_body={"input_reference": {"file_id": "file-1"}})),
        "unknown": thrown(lambda: videos.create(prompt="x", extra_body={"frames": 3})),
        "remix": thrown(lambda: videos.remix(id, prompt="x")),
        "edit": thrown(lambda: videos.edit(prompt="x", video=b"a video")),
        "model name": thrown(lambda: client.with_options(api_key=valid).models.retrieve("gpt-5")),
    }


print(json.dumps({"flow": flow, "errors": errors}[mode](*args)))
