// The engine uses Promise.withResolvers instead of defer().
export * from "engine/src/utils";
export function defer<T = void>(): any {
    let resolve: any, reject: any;
    const promise = new Promise<T>((yes, no) => {
        resolve = yes;
        reject = no;
    });
    return { promise, resolve, reject };
}
