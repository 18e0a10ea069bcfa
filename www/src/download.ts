// Models from the network into the browser's own storage (OPFS): resumed where they were broken off, their hash checked
// on the way, never whole in memory. Runs in the worker, which alone may write to that storage piece by piece.
import { Hash } from './ctsft-lab.js';
import type { ErrorMessage } from './bindings/ErrorMessage';

/** A line of models/manifest.json. */
export interface Downloadable {
  id: string;
  name: string;
  licence: string;
  /** Number of weights: at two bytes each, about what will be downloaded. */
  weights: number;
  /** config.json, tokenizer.json and the weights. */
  files: string[];
}

/** What of a model is in the browser's storage. */
export interface Stored {
  bytes: number;
  /** Whether some of the weights are there. */
  begun: boolean;
  complete: boolean;
}

export interface DownloadProgress {
  file: string;
  /** Bytes there. */
  done: number;
  /** Bytes in all; unknown until the server has said. */
  total?: number;
  /** Bytes of an earlier visit are being read again for the hash. */
  checking: boolean;
}

/** What is known of a file, kept beside it. */
interface Note {
  url: string;
  size?: number;
  etag?: string;
  sha256?: string;
  complete: boolean;
}

const failure = (kind: ErrorMessage['kind'], message: string): ErrorMessage => ({ kind, message });

/** Tries in a row without a single new byte before giving up. */
const TRIES = 5;
/** Times a file is begun anew before giving up: a server that never says the same twice would go on for ever. */
const RESTARTS = 3;
/** Bytes written before they are made safe against the tab's end, and bytes read again at once. */
const PIECE = 8 << 20;

async function folder(id: string): Promise<FileSystemDirectoryHandle> {
  if (!navigator.storage?.getDirectory) {
    throw failure('model', 'This browser offers the page no storage for files: download the model’s files yourself and choose them here.');
  }
  const models = await (await navigator.storage.getDirectory()).getDirectoryHandle('models', { create: true });
  return models.getDirectoryHandle(id, { create: true });
}

const nameOf = (url: string) => new URL(url).pathname.split('/').at(-1) ?? 'file';

async function readNote(place: FileSystemDirectoryHandle, name: string): Promise<Note | undefined> {
  try {
    const handle = await place.getFileHandle(`${name}.note`);
    return JSON.parse(await (await handle.getFile()).text());
  } catch {
    // None yet, or cut off while it was written: the file begins anew.
    return undefined;
  }
}

async function writeNote(place: FileSystemDirectoryHandle, name: string, note: Note): Promise<void> {
  const handle = await place.getFileHandle(`${name}.note`, { create: true });
  const access = await handle.createSyncAccessHandle();
  try {
    access.truncate(0);
    access.write(new TextEncoder().encode(JSON.stringify(note)), { at: 0 });
    access.flush();
  } finally {
    access.close();
  }
}

/** What is stored of a model. */
export async function stored(model: Downloadable): Promise<Stored> {
  const place = await folder(model.id);
  let [bytes, begun, complete] = [0, false, true];
  for (const name of model.files.map(nameOf)) {
    const note = await readNote(place, name);
    complete &&= note?.complete ?? false;
    const size = note ? (await (await place.getFileHandle(name, { create: true })).getFile()).size : 0;
    bytes += size;
    // The weights come last.
    begun = size > 0;
  }
  return { bytes, begun, complete };
}

/** Deletes what is stored of a model. */
export async function remove(model: Downloadable): Promise<void> {
  await folder(model.id);
  const models = await (await navigator.storage.getDirectory()).getDirectoryHandle('models');
  await models.removeEntry(model.id, { recursive: true });
}

/** The files of a model, downloaded as far as they are not there yet. */
export async function download(
  model: Downloadable,
  progress: (progress: DownloadProgress) => void,
  signal: AbortSignal,
): Promise<File[]> {
  const place = await folder(model.id);
  // Else a browser short of space may delete it.
  await navigator.storage.persist?.();
  const files: File[] = [];
  for (const url of model.files) {
    const name = nameOf(url);
    const note = await readNote(place, name);
    const handle = await place.getFileHandle(name, { create: true });
    if (!note?.complete || note.url !== url) await fetchFile(place, handle, url, note?.url === url ? note : undefined, progress, signal);
    // The weights are named for the model: page and record show it.
    const weights = /\.(safetensors|gguf)$/.exec(name)?.[0];
    files.push(new File([await handle.getFile()], weights ? model.name + weights : name));
  }
  return files;
}

/** What a response says of the file. `start` is the byte it begins with. */
function described(response: Response): Omit<Note, 'url' | 'complete'> & { start: number } {
  const header = (name: string) => response.headers.get(name) ?? undefined;
  const range = /^bytes (\d+)-\d+\/(\d+)$/.exec(header('content-range') ?? '');
  const length = header('x-linked-size') ?? (header('content-encoding') ? undefined : header('content-length'));
  // The hub's tag of a large file is its SHA-256.
  const etag = header('x-linked-etag') ?? header('etag');
  const sha256 = /^(?:W\/)?"?([0-9a-f]{64})"?$/.exec(etag ?? '')?.[1];
  if (response.status === 206 && range) return { start: Number(range[1]), size: Number(range[2]), etag, sha256 };
  return { start: 0, size: length === undefined ? undefined : Number(length), etag, sha256 };
}

async function fetchFile(
  place: FileSystemDirectoryHandle,
  handle: FileSystemFileHandle,
  url: string,
  known: Note | undefined,
  progress: (progress: DownloadProgress) => void,
  signal: AbortSignal,
): Promise<void> {
  const file = nameOf(url);
  const host = new URL(url).host;
  const access = await handle.createSyncAccessHandle().catch(() => {
    throw failure('model', `${file} is being downloaded in another tab of this page.`);
  });
  let note: Note = known ?? { url, complete: false };
  let hash = new Hash();
  let received = 0;
  const restart = () => {
    access.truncate(0);
    hash.free();
    hash = new Hash();
    received = 0;
  };
  const report = (checking: boolean) => progress({ file, done: received, total: note.size, checking });
  const stop = () => {
    if (signal.aborted) throw failure('cancelled', 'The download was stopped; it goes on from here when you start it again.');
  };
  try {
    if (known) {
      const piece = new Uint8Array(PIECE);
      for (let size = access.getSize(); received < size; ) {
        const read = access.read(piece, { at: received });
        if (read === 0) break;
        hash.update(piece.subarray(0, read));
        received += read;
        report(true);
        stop();
        // Lets a cancel in.
        await new Promise((resolve) => setTimeout(resolve));
      }
    } else {
      restart();
    }
    let [problem, restarts] = ['', 0];
    const again = (why: string) => {
      restart();
      problem = why;
      restarts += 1;
    };
    for (let tries = 0; tries < TRIES && restarts < RESTARTS; tries++) {
      stop();
      if (tries > 0) await new Promise((resolve) => setTimeout(resolve, 250 * 2 ** tries));
      const before = received;
      let response: Response;
      try {
        response = await fetch(url, { signal, cache: 'no-store', headers: received > 0 ? { Range: `bytes=${received}-` } : {} });
      } catch (error) {
        stop();
        problem = `${host} cannot be reached (${error instanceof Error ? error.message : String(error)})`;
        continue;
      }
      if (response.status === 416) {
        // More is here than the server has.
        again(`${host} has less of ${file} than it announced`);
        continue;
      }
      if (!response.ok || !response.body) {
        problem = `${host} answers ${response.status} ${response.statusText}`.trim();
        if (response.status >= 500 || response.status === 429) continue;
        throw failure('model', `${file}: ${problem}.`);
      }
      const { start, ...said } = described(response);
      const changed = received > 0 && ((note.etag && said.etag && note.etag !== said.etag) || (note.size && said.size && note.size !== said.size));
      if (changed && start > 0) {
        await response.body.cancel();
        note = { url, complete: false };
        again(`${file} changed at ${host} in the meantime`);
        continue;
      }
      // A server without ranges sends all of it again.
      if (start === 0 && received > 0) again(`${host} does not send parts of ${file}`);
      if (start !== received) {
        await response.body.cancel();
        again(`${host} sends another part of ${file} than asked for`);
        continue;
      }
      note = { url, complete: false, size: said.size ?? note.size, etag: said.etag ?? note.etag, sha256: said.sha256 ?? note.sha256 };
      await writeNote(place, file, note);
      await room(note, received).catch(async (refusal) => {
        await response.body?.cancel();
        throw refusal;
      });
      problem = await receive(response.body);
      if (problem === '') {
        await finish();
        return;
      }
      // What makes headway may go on.
      if (received > before) tries = -1;
    }
    throw failure('model', `${file}: ${problem}. What has come is kept; start again to go on.`);
  } finally {
    access.flush();
    access.close();
    hash.free();
  }

  /** Stores a response's body; an empty text if it came to its end, else what went wrong. */
  async function receive(body: ReadableStream<Uint8Array>): Promise<string> {
    const reader = body.getReader();
    let unsafe = 0;
    for (;;) {
      let next;
      try {
        next = await reader.read();
      } catch (error) {
        stop();
        return `the connection to ${host} broke off (${error instanceof Error ? error.message : String(error)})`;
      }
      if (next.done) break;
      if (note.size !== undefined && received + next.value.length > note.size) {
        await reader.cancel();
        restart();
        await place.removeEntry(`${file}.note`);
        throw failure('model', `${file}: ${host} sends more than the ${note.size} bytes it announced. It was deleted.`);
      }
      try {
        access.write(next.value, { at: received });
      } catch (error) {
        await reader.cancel();
        throw failure('model', `${file} cannot be stored: ${error instanceof Error ? error.message : String(error)}`);
      }
      hash.update(next.value);
      received += next.value.length;
      unsafe += next.value.length;
      if (unsafe >= PIECE) {
        access.flush();
        unsafe = 0;
      }
      report(false);
    }
    return note.size === undefined || received === note.size ? '' : `${host} ended ${file} after ${received} of ${note.size} bytes`;
  }

  async function finish(): Promise<void> {
    const found = hash.hex();
    if (note.sha256 && note.sha256 !== found) {
      restart();
      await place.removeEntry(`${file}.note`);
      throw failure('model', `${file}: its SHA-256 is ${found}, but ${host} announced ${note.sha256}. It was damaged on the way and deleted.`);
    }
    access.flush();
    await writeNote(place, file, { ...note, size: received, complete: true });
  }

  /** Refuses what the browser's storage has no room for. */
  async function room(note: Note, there: number): Promise<void> {
    const { quota, usage } = await navigator.storage.estimate();
    if (note.size === undefined || quota === undefined || usage === undefined) return;
    const megabytes = (bytes: number) => Math.ceil(bytes / 1e6);
    const [needed, free] = [note.size - there, quota - usage];
    if (needed > free) {
      throw failure('model', `${file} needs ${megabytes(needed)} MB more, but the browser’s storage has room for ${megabytes(free)} MB only.`);
    }
  }
}
