"""The responses and refusals of the page's server."""

from __future__ import annotations

import base64
import io
import socket
import threading
import time

import numpy as np
import pytest
from PIL import Image
from served import DETECTOR, SEGMENTOR, written
from starlette.testclient import TestClient

from swin_backbone.tools.page import application, listen, url_of
from swin_backbone.tools.page.answer import answer
from swin_backbone.tools.predictor import Prediction, Predictor

HERE = 'http://127.0.0.1:7860'
NOISE = np.random.default_rng(0).integers(0, 256, (90, 141, 3), dtype=np.uint8)


class Classifier:
    """A fast fake model that records its inputs."""

    task, classes = 'classification', ['cat', 'dog']
    palette = np.array([[255, 0, 0], [0, 0, 255]], np.uint8)

    def __init__(self) -> None:
        self.given: list[np.ndarray] = []
        self.at_once, self.most_at_once, self.seconds = 0, 0, 0.0

    def __call__(self, image: np.ndarray) -> Prediction:
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        time.sleep(self.seconds)
        self.given.append(image)
        self.at_once -= 1
        return Prediction(scores=np.array([0.25, 0.75], np.float32))


@pytest.fixture
def model() -> Classifier:
    return Classifier()


@pytest.fixture
def client(model) -> TestClient:
    app = application(model, title='pets', max_upload=50_000, max_pixels=1_000_000)
    return TestClient(app, base_url=HERE)


def png(pixels: np.ndarray = NOISE) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'PNG')
    return file.getvalue()


def refused(response, status: int, sentence: str) -> None:
    assert response.status_code == status, response.text
    assert sentence in response.json()['error']


def unrolled(mask: dict, height: int, width: int) -> np.ndarray:
    """A mask of the response as bool (height, width)."""
    whole = np.zeros((height, width), bool)
    values = np.arange(len(mask['lengths'])) % 2 == 1
    part = np.repeat(values, mask['lengths']).reshape(mask['height'], mask['width'])
    top, left = mask['top'], mask['left']
    whole[top : top + mask['height'], left : left + mask['width']] = part
    return whole


def test_the_page_and_its_files(client):
    for path, kind in (('/', 'html'), ('/page.css', 'css'), ('/page.js', 'javascript')):
        response = client.get(path)
        assert response.status_code == 200
        assert kind in response.headers['content-type']
        policy = response.headers['content-security-policy']
        assert "default-src 'none'" in policy and 'unsafe' not in policy
        assert response.headers['x-content-type-options'] == 'nosniff'
    refused(client.get('/nothing'), 404, 'Not Found')
    refused(client.get('/predict'), 405, 'Method Not Allowed')
    assert client.get('/nothing').headers['content-security-policy']


def test_the_model(client):
    known = client.get('/model').json()
    assert known['title'] == 'pets' and known['task'] == 'classification'
    assert known['classes'] == ['cat', 'dog']
    assert known['palette'] == [[255, 0, 0], [0, 0, 255]]
    assert known['max_upload'] == 50_000 and known['max_pixels'] == 1_000_000


def test_a_classifiers_answer(client, model):
    found = client.post('/predict', content=png()).json()
    assert found['scores'] == [0.25, 0.75]
    assert (found['width'], found['height']) == (141, 90)
    assert 0 <= found['seconds'] < 5
    assert not {'boxes', 'labels', 'masks', 'segments'} & set(found)
    np.testing.assert_array_equal(model.given[0], NOISE)
    head, _, content = found['picture'].partition(',')
    assert head == 'data:image/jpeg;base64'
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (141, 90)


def test_a_detectors_answer_is_what_it_sees(folder):
    model = Predictor(DETECTOR, written(DETECTOR, folder))
    found = TestClient(application(model, title='x'), base_url=HERE).post('predict', content=png())
    found, wanted = found.json(), model(NOISE)
    assert len(wanted.boxes) > 3 and wanted.masks.any()
    np.testing.assert_allclose(found['boxes'], wanted.boxes, atol=0.006)
    np.testing.assert_allclose(found['scores'], wanted.scores, atol=1e-6)
    assert found['labels'] == wanted.labels.tolist()
    for mask, whole in zip(found['masks'], wanted.masks, strict=True):
        np.testing.assert_array_equal(unrolled(mask, 90, 141), whole)


def test_a_segmentors_answer_is_what_it_sees(folder):
    model = Predictor(SEGMENTOR, written(SEGMENTOR, folder))
    found = TestClient(application(model, title='x'), base_url=HERE).post('predict', content=png())
    segments = found.json()['segments']
    unrolled = np.repeat(segments['labels'], segments['lengths']).reshape(90, 141)
    np.testing.assert_array_equal(unrolled, model(NOISE).segments)
    assert unrolled.max() > 0


def test_masks_of_nothing_and_of_everything():
    masks = np.zeros((3, 4, 6), bool)
    masks[1] = True
    masks[2, 1:3, [2, 4]] = True
    found = answer(Prediction(masks=masks))['masks']
    assert found[0] == dict(left=0, top=0, width=0, height=0, lengths=[])
    assert found[1] == dict(left=0, top=0, width=6, height=4, lengths=[0, 24])
    assert found[2] == dict(left=2, top=1, width=3, height=2, lengths=[0, 1, 1, 2, 1, 1])
    for mask, whole in zip(found, masks, strict=True):
        np.testing.assert_array_equal(unrolled(mask, 4, 6), whole)


def test_no_detections():
    none = Prediction(
        boxes=np.zeros((0, 4), np.float32),
        scores=np.zeros(0, np.float32),
        labels=np.zeros(0, np.int64),
        masks=np.zeros((0, 4, 6), bool),
    )
    assert answer(none) == dict(boxes=[], scores=[], labels=[], masks=[])


def test_no_image(client, model):
    refused(client.post('/predict', content=b'hello, world'), 415, 'This file is no image')
    refused(client.post('/predict', content=b''), 415, 'This file is no image')
    refused(client.post('/predict', content=png()[:2000]), 400, 'The image is damaged')
    assert not model.given


def test_too_large_as_declared_and_as_streamed(client, model):
    refused(client.post('/predict', content=bytes(50_001)), 413, 'MiB are allowed')
    sent = []

    def pieces():
        for _ in range(100):
            sent.append(1)
            yield bytes(10_000)

    response = client.post('/predict', content=pieces())
    assert 'content-length' not in response.request.headers
    refused(response, 413, 'MiB are allowed')
    assert client.post('/predict', content=iter([png()])).status_code == 200
    assert len(model.given) == 1


def test_too_many_pixels(client, model):
    black = png(np.zeros((1001, 1000), np.uint8))
    assert len(black) < 50_000
    refused(client.post('/predict', content=black), 413, '1000 × 1001 pixels, and 1,000,000 are')
    assert not model.given


@pytest.mark.parametrize(
    'host', ['evil.example', 'evil.example:7860', '192.168.0.7', '', '[', 'localhost@evil.example']
)
def test_names_that_are_not_this_machines(client, host):
    for method, path in (('GET', '/'), ('GET', '/model'), ('POST', '/predict')):
        response = client.request(method, path, headers={'Host': host})
        refused(response, 400, 'not reached by that name')


@pytest.mark.parametrize('host', ['localhost:7860', '127.0.0.1', '[::1]:7860', 'LOCALHOST'])
def test_names_that_are(client, host):
    assert client.get('/model', headers={'Host': host}).status_code == 200


def test_names_when_bound_elsewhere(model):
    def status(bound: str, host: str) -> int:
        app = application(model, title='x', host=bound)
        return TestClient(app, base_url=HERE).get('/', headers={'Host': host}).status_code

    assert status('192.168.0.7', '192.168.0.7:80') == 200
    assert status('192.168.0.7', '192.168.0.8:80') == 400
    assert status('0.0.0.0', '192.168.0.7:80') == 200  # no DNS server has a say in addresses
    assert status('0.0.0.0', f'{socket.gethostname()}:80') == 200
    assert status('0.0.0.0', 'evil.example') == 400


@pytest.mark.parametrize(
    'headers',
    [
        {'Origin': 'http://evil.example'},
        {'Origin': 'http://127.0.0.1:8000'},
        {'Origin': 'null'},
        {'Sec-Fetch-Site': 'cross-site'},
        {'Sec-Fetch-Site': 'same-site', 'Origin': HERE},
    ],
    ids=str,
)
def test_requests_of_other_sites(client, model, headers):
    response = client.post('/predict', content=png(), headers=headers)
    refused(response, 403, 'other sites')
    assert not model.given and 'access-control-allow-origin' not in response.headers
    own = {'Origin': HERE, 'Sec-Fetch-Site': 'same-origin'}
    assert client.post('/predict', content=png(), headers=own).status_code == 200


def test_a_model_that_fails(client, model, caplog):
    def fail(image):
        raise RuntimeError('no such thing')

    model.__class__ = type('Failing', (Classifier,), {'__call__': lambda _, image: fail(image)})
    response = client.post('/predict', content=png())
    refused(response, 500, 'The model failed on this image: RuntimeError: no such thing.')
    assert 'Traceback' in caplog.text and 'Traceback' not in response.text


def test_one_image_at_a_time_and_few_that_wait(client, model):
    model.seconds = 0.3
    codes = []

    def post():
        codes.append(client.post('/predict', content=png()).status_code)

    with client:  # one event loop for all
        threads = [threading.Thread(target=post) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(set(codes)) == [200, 503]
        assert codes.count(200) >= 8
        assert model.most_at_once == 1 and len(model.given) == codes.count(200)
        assert client.post('/predict', content=png()).status_code == 200  # they have left


def test_sockets():
    with listen('127.0.0.1', 0) as one:
        port = one.getsockname()[1]
        assert url_of(one, '127.0.0.1') == f'http://127.0.0.1:{port}/'
        assert url_of(one, '::1') == f'http://[::1]:{port}/'
        assert url_of(one, '0.0.0.0') == f'http://localhost:{port}/'
        with pytest.raises(OSError, match=rf'127\.0\.0\.1, port {port}: .*in use; choose another'):
            listen('127.0.0.1', port)
    with pytest.raises(OSError, match=r'cannot listen on 192\.0\.2\.1'):
        listen('192.0.2.1', 0)
