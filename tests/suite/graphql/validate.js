// node validate.js FOLDER: validates GraphQL documents and variables against Shopify's Admin API schemas.
//
// FOLDER is what scripts/graphql made. Reads {versions: ["2026-04"…], cases: [{documents: [{name, text}…], requests: [{name, query,
// variables}…]}…]}, prints {problems: [[{version, name, problem}…] for each case], idempotent: {version: [mutation…]}}.
'use strict';
const fs = require('fs');
const path = require('path');
const zlib = require('zlib');

const folder = path.resolve(process.argv[2]);
const {
  buildClientSchema, getVariableValues, Kind, NoDeprecatedCustomRule, parse, specifiedRules, validate,
} = require(path.join(folder, 'node_modules/graphql'));
const asked = JSON.parse(fs.readFileSync(0, 'utf8'));

const problems = asked.cases.map(() => []);
const idempotent = {};
for (const version of asked.versions) {
  const packed = fs.readFileSync(path.join(folder, `admin_${version}.json.gz`));
  const schema = buildClientSchema(JSON.parse(zlib.gunzipSync(packed)).data);
  const mutations = schema.getMutationType().getFields();
  // Required at runtime, though no type says so: the descriptions do.
  idempotent[version] = Object.keys(mutations)
    .filter((name) => /idempotency key is required[^]*`@idempotent` directive/.test(mutations[name].description ?? ''));
  asked.cases.forEach((one, i) => check(schema, idempotent[version], one, (name, problem) => problems[i].push({ version, name, problem })));
}
process.stdout.write(JSON.stringify({ problems, idempotent }));

function check(schema, needKeys, { documents, requests }, tell) {
  const operations = new Map();
  for (const { name, text } of documents) {
    let document;
    try {
      document = parse(text);
    } catch (e) {
      tell(name, e.message);
      continue;
    }
    for (const e of validate(schema, document, [...specifiedRules, NoDeprecatedCustomRule])) tell(name, e.message);
    const [operation, ...more] = document.definitions;
    if (operation.kind !== Kind.OPERATION_DEFINITION || more.length) {
      tell(name, 'a document is one operation');
      continue;
    }
    operations.set(text, operation);
    for (const field of operation.selectionSet.selections) {
      const bears = field.directives.some((d) => d.name.value === 'idempotent');
      if (operation.operation === 'mutation' && needKeys.includes(field.name?.value) && !bears) {
        tell(name, `${field.name.value} is refused at runtime without @idempotent(key:)`);
      }
    }
  }
  for (const { name, query, variables } of requests) {
    const operation = operations.get(query);
    if (!operation) {
      tell(name, 'its query is none of the documents');
      continue;
    }
    const definitions = operation.variableDefinitions ?? [];
    for (const e of getVariableValues(schema, definitions, variables).errors ?? []) tell(name, e.message);
    const known = definitions.map((d) => d.variable.name.value);
    for (const extra of Object.keys(variables).filter((v) => !known.includes(v))) tell(name, `it has no variable $${extra}`);
  }
  for (const { name, text } of documents) {
    if (!requests.some((r) => r.query === text)) tell(name, 'no request is shown that uses it');
  }
}
