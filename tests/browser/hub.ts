// A hub that serves the built-in model's files, and misbehaves as its paths say.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { Page } from '@playwright/test';
import { root } from './helpers';

/** How the weights are served; the other files always come well. */
export type Manners =
  | 'good'
  /** Breaks off in the middle at first. */
  | 'breaks'
  /** Stops in the middle at first and keeps the connection. */
  | 'stalls'
  /** Breaks off at first, then sends everything although a part is asked for. */
  | 'no-ranges'
  /** Breaks off at first, then has another file. */
  | 'changes'
  | 'wrong-hash'
  /** Announces fewer bytes than it sends. */
  | 'longer'
  /** Announces more bytes than it has. */
  | 'shorter'
  | 'missing'
  /** Lets no other page read. */
  | 'no-cors';

export interface Hub {
  /** `Range` of each request for the weights, in order. */
  ranges: (string | undefined)[];
  /** Has the page offer this hub's model alone. */
  offer: (page: Page, manners: Manners) => Promise<void>;
  close: () => Promise<void>;
}

const weights = readFileSync(join(root, 'models/lab/model.safetensors'));
const half = Math.floor(weights.length / 2);

export async function startHub(): Promise<Hub> {
  const ranges: (string | undefined)[] = [];
  const serve = (request: IncomingMessage, response: ServerResponse) => {
    const [, manners, name] = (request.url ?? '').split('/') as [string, Manners, string];
    if (manners !== 'no-cors') response.setHeader('Access-Control-Allow-Origin', '*');
    response.setHeader('Access-Control-Expose-Headers', 'ETag, Content-Range, X-Linked-ETag, X-Linked-Size');
    if (name !== 'model.safetensors') {
      response.end(readFileSync(join(root, 'models/lab', name)));
      return;
    }
    const range = request.headers.range;
    ranges.push(range);
    const first = ranges.length === 1;
    if (manners === 'missing') {
      response.writeHead(404).end();
      return;
    }
    const changed = manners === 'changes' && !first;
    const sha256 = manners === 'wrong-hash' ? '0'.repeat(64) : createHash('sha256').update(weights).digest('hex');
    response.setHeader('X-Linked-ETag', changed ? '"another"' : `"${sha256}"`);
    const lie = { longer: -1000, shorter: 1000 }[manners as string] ?? 0;
    const start = manners === 'no-ranges' ? 0 : Number(/^bytes=(\d+)-$/.exec(range ?? '')?.[1] ?? 0);
    if (start >= weights.length) {
      response.writeHead(416).end();
      return;
    }
    const total = weights.length + lie;
    if (start > 0) {
      response.setHeader('Content-Range', `bytes ${start}-${weights.length - 1}/${total}`);
      response.statusCode = 206;
    } else {
      response.setHeader('X-Linked-Size', total);
    }
    if (first && ['breaks', 'no-ranges', 'changes', 'stalls'].includes(manners)) {
      response.setHeader('Content-Length', weights.length);
      response.write(weights.subarray(0, half), () => {
        // What was written must have left before the connection goes.
        if (manners !== 'stalls') setTimeout(() => response.destroy(), 300);
      });
      return;
    }
    response.end(weights.subarray(start));
  };
  const server = createServer(serve);
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    ranges,
    offer: async (page, manners) => {
      const files = ['config.json', 'tokenizer.json', 'model.safetensors'].map((name) => `${origin}/${manners}/${name}`);
      const manifest = [{ id: 'test', name: 'Test model', licence: 'none', weights: weights.length / 2, files }];
      await page.route('**/manifest.json', (route) => route.fulfill({ json: manifest }));
    },
    close: () => {
      server.closeAllConnections();
      return new Promise((done) => server.close(() => done()));
    },
  };
}
