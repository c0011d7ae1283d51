'use strict';
// The page: takes files, has the verifier judge them, and shows its report. All
// text goes into the document as text, whatever a bundle may hold.

const $ = (id) => document.getElementById(id);
const files = { bundle: null, policy: null };
const maxFile = 16 << 20;

// node makes an element: node('p', {class: 'x'}, 'text', other).
function node(tag, attributes, ...children) {
  const n = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes || {})) n.setAttribute(k, v);
  n.append(...children.filter((c) => c !== null && c !== undefined));
  return n;
}

const outcomes = {
  verified: ['✓', 'Verified'],
  refused: ['✗', 'Refused'],
  unjudged: ['!', 'Not judged: no policy'],
  unreadable: ['✗', 'Cannot be read'],
};

// Fields that a person compares; other checks that hold are folded away.
const decisive = /^(sgx|tdx|snp|sim|tpm|cca|nvidia)\.|^tcb\.|^manifest\.|^log\./;

function facts(pairs) {
  const dl = node('dl');
  for (const [name, value] of pairs) {
    if (value !== '' && value !== null && value !== undefined) dl.append(node('dt', null, name), node('dd', null, value));
  }
  return dl;
}

function mono(text) { return node('span', { class: 'mono' }, text); }

function checks(steps, caption) {
  const body = node('tbody');
  for (const s of steps) {
    body.append(node('tr', s.ok ? null : { class: 'failed' },
      node('th', { scope: 'row' }, s.field),
      node('td', { class: 'mono' }, s.want),
      node('td', { class: 'mono' }, s.got),
      node('td', { class: 'result ' + (s.ok ? 'holds' : 'fails') }, s.ok ? '✓ holds' : '✗ fails')));
  }
  const head = node('tr', null, ...['Field', 'Wanted', 'Got', 'Result'].map((h) => node('th', { scope: 'col' }, h)));
  return node('div', { class: 'sheet', tabindex: '0', role: 'region', 'aria-label': caption },
    node('table', null, node('caption', null, caption), node('thead', null, head), body));
}

function findings(steps) {
  return steps.map((s) => node('div', { class: 'finding' },
    node('h3', null, '✗ ' + s.field + ' ', node('small', null, s.code)),
    facts([['wanted', mono(s.want)], ['got', mono(s.got)], ['source', s.source],
      ['next', s.fix && s.fix.how ? s.fix.how + ' (' + s.fix.who + ')' : '']])));
}

// claims flattens what the evidence says: [["sgx.uniqueID", "07…"], …].
function claims(all) {
  const rows = [];
  const walk = (name, v) => {
    if (v && typeof v === 'object' && !Array.isArray(v)) {
      for (const key of Object.keys(v).sort()) walk(name + '.' + key, v[key]);
    } else if (typeof v === 'number' || typeof v === 'boolean' || (typeof v === 'string' && /[^0]/.test(v))) {
      rows.push([name, mono(String(v))]);
    }
  };
  for (const part of ['sgx', 'tdx', 'snp', 'tpm', 'gpu', 'registers']) if (all[part]) walk(part, all[part]);
  return rows;
}

function summary(b, accepted, verified) {
  let log = verified && b.manifest ? 'does not show when it accepted the manifest' : '';
  if (accepted) {
    log = 'record ' + accepted.seq + ' of ' + b.records + ' accepted it, ' + accepted.time.replace(/\.\d+/, '') + ', set by ' +
      (accepted.open ? 'the first who came: anybody who reached the coordinator could have' : accepted.actor);
  }
  const manifest = b.manifest ? node('span', null, mono(b.manifest), ', revision ' + b.revision) : 'none was set';
  return facts([['Coordinator', b.address], ['Trust domain', b.trustDomain], ['Made', b.time + ', by its maker’s clock'],
    ['Judged as of', b.at], ['Evidence', b.tee + ', ' + b.evidence + ' bytes'], ['Manifest', manifest], ['Log', log]]);
}

// because says in a sentence why the outcome is what it is.
function because(r) {
  if (r.outcome === 'verified') return 'Everything that the policy asks for holds, and so does everything that the bundle claims.';
  const steps = (r.verdict && r.verdict.steps) || [];
  const failed = steps.filter((s) => !s.ok);
  if (r.outcome === 'refused' && failed.length > 0) {
    return failed.length + ' of ' + steps.length + ' checks ' + (failed.length === 1 ? 'does' : 'do') + ' not hold, first ' + failed[0].field + ' · ' + r.code;
  }
  return r.detail + ' · ' + r.code;
}

function show(r) {
  const out = $('report');
  const [sign, title] = outcomes[r.outcome];
  out.replaceChildren();
  if (r.simulation) {
    out.append(node('p', { class: 'simulation' }, node('strong', null, 'SIMULATION. '), 'This evidence was made in software. Nothing here is protected by hardware.'));
  }
  out.append(node('div', { class: 'verdict ' + r.outcome, id: 'outcome', 'data-outcome': r.outcome },
    node('span', { class: 'sign', 'aria-hidden': 'true' }, sign),
    node('div', null, node('h2', null, title),
      node('p', null, because(r)),
      r.next ? node('p', null, 'Next: ' + r.next) : null)));
  if (r.verdict) {
    const steps = r.verdict.steps || [];
    const failed = steps.filter((s) => !s.ok);
    if (failed.length > 0) out.append(node('h2', null, 'What does not hold'), ...findings(failed));
    if (r.bundle) out.append(node('h2', null, 'The bundle'), summary(r.bundle, r.accepted, r.outcome === 'verified'));
    const main = steps.filter((s) => !s.ok || decisive.test(s.field));
    const rest = steps.filter((s) => s.ok && !decisive.test(s.field));
    out.append(node('h2', null, 'Checks'));
    if (main.length > 0) out.append(checks(main, 'What you can compare'));
    if (rest.length > 0) {
      out.append(node('details', { class: 'rest' },
        node('summary', null, '✓ ' + rest.length + ' more checks hold'), checks(rest, 'Checks that hold')));
    }
    const said = claims(r.verdict.claims || {});
    if (said.length > 0) out.append(node('h2', null, 'What the evidence says'), facts(said));
    if (r.bundle && r.bundle.text) {
      out.append(node('details', { class: 'rest' }, node('summary', null, 'The manifest that the bundle holds'), node('div', { class: 'sheet' }, node('pre', { tabindex: '0' }, r.bundle.text))));
    }
  }
  out.hidden = false;
  document.title = title + ' · Ashlar';
}

let ready = false;

function judge() {
  if (!ready || !files.bundle) return;
  $('status').hidden = true;
  const started = performance.now();
  const report = ashlarJudge(files.bundle, files.policy || new Uint8Array(0), $('at').value.trim());
  show(JSON.parse(report));
  $('report').dataset.milliseconds = Math.round(performance.now() - started);
}

async function take(kind, file) {
  if (!file) return;
  files[kind] = new Uint8Array(await file.slice(0, maxFile + 1).arrayBuffer());
  $(kind + '-name').textContent = file.name;
  $(kind + '-drop').classList.add('filled');
  judge();
}

function wire(kind) {
  const drop = $(kind + '-drop');
  $(kind).addEventListener('change', (e) => take(kind, e.target.files[0]));
  for (const name of ['dragenter', 'dragover']) {
    drop.addEventListener(name, (e) => { e.preventDefault(); drop.classList.add('over'); });
  }
  drop.addEventListener('dragleave', () => drop.classList.remove('over'));
  drop.addEventListener('drop', (e) => { e.preventDefault(); drop.classList.remove('over'); take(kind, e.dataTransfer.files[0]); });
}

// fromAddress loads what ?bundle=…&policy=… name, from this server only.
async function fromAddress() {
  const q = new URLSearchParams(location.search);
  if (q.has('at')) $('at').value = q.get('at');
  for (const kind of ['policy', 'bundle']) {
    if (!q.has(kind)) continue;
    const url = new URL(q.get(kind), location.href);
    if (url.origin !== location.origin) throw new Error(kind + ' is on another server');
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(kind + ': status ' + answer.status);
    await take(kind, new File([await answer.blob()], url.pathname.split('/').pop()));
  }
}

async function start() {
  wire('bundle');
  wire('policy');
  $('form').addEventListener('submit', (e) => { e.preventDefault(); judge(); });
  $('at').addEventListener('change', judge);
  addEventListener('dragover', (e) => e.preventDefault());
  addEventListener('drop', (e) => e.preventDefault()); // beside the fields: the browser would open it
  const go = new Go();
  const wasm = await (await fetch('verify.wasm')).arrayBuffer();
  const { instance } = await WebAssembly.instantiate(wasm, go.importObject);
  go.run(instance);
  ready = true;
  $('status').textContent = 'Ready: give it a bundle.';
  judge();
  await fromAddress();
}

start().catch((e) => {
  $('status').hidden = false;
  $('status').textContent = 'This did not work: ' + e.message;
});
